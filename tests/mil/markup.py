"""A page as a browser's parser sees it, for tests of what is written."""

from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

VOID = {"meta", "link", "img", "input", "br"}
LINKS = ("href", "src")


class Element(NamedTuple):
    """A start tag with its attributes."""

    tag: str
    attributes: dict[str, str]


class Page(HTMLParser):
    """The elements of a page in their order, its text, and whether each end tag closes what was opened last."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All text with single spaces."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of that name."""
        return [element.attributes for element in self.elements if element.tag == tag]


def read_pages(folder: Path) -> dict[str, Page]:
    """All pages of a report by their path in it, each checked: it leads to what is there, and holds no script."""
    pages = {str(path.relative_to(folder)): Page(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    for name, page in pages.items():
        assert page.all("script") == [{"src": page.all("script")[0]["src"], "defer": ""}]
        ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
        assert len(set(ids)) == len(ids)
        for tag, attributes in page.elements:
            assert not [key for key in attributes if key.startswith("on") or key == "style"], attributes
            assert tag != "img" or "alt" in attributes
            for key in LINKS:
                target, _, anchor = attributes.get(key, "").partition("#")
                assert not target or ((folder / name).parent / target).is_file(), f"{name}: {target}"
                assert not anchor or target or anchor in ids
    return pages
