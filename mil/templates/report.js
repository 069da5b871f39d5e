// Sorting and filtering of the table, and tiles enlarged in place. Without it the page is all there, in its first order.
"use strict";

const collator = new Intl.Collator(undefined, { numeric: true });

function cellOf(row, place) {
  return row.cells[place].dataset.sort ?? "";
}

// What a search goes through: all but figures.
function wordsOf(row) {
  const cells = Array.from(row.cells).filter((cell) => !cell.classList.contains("num"));
  return cells.map((cell) => cell.textContent).join(" ").toLowerCase();
}

// Rows in the order of a column; what has no value comes last, whichever way.
function sorted(rows, place, kind, down) {
  const sign = down ? -1 : 1;
  const keys = rows.map((row) => ({ row, key: cellOf(row, place) }));
  keys.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
    return sign * (kind === "number" ? a.key - b.key : collator.compare(a.key, b.key));
  });
  return keys.map((each) => each.row);
}

class SlideTable {
  constructor(table, form) {
    this.table = table;
    this.form = form;
    this.body = table.tBodies[0];
    this.rows = Array.from(this.body.rows);
    this.texts = this.rows.map(wordsOf);
    this.heads = Array.from(table.tHead.rows[0].cells);
    this.heads.forEach((head, place) => this.makeSortable(head, place));
    form.hidden = false;
    form.addEventListener("input", () => this.filter());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => this.filter()));
    this.restore();
  }

  makeSortable(head, place) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      this.sort(place, now ? now === "ascending" : head.dataset.kind === "number");
      this.remember();
    });
  }

  sort(place, down) {
    const rows = sorted(this.rows, place, this.heads[place].dataset.kind, down);
    this.heads.forEach((head) => head.removeAttribute("aria-sort"));
    this.heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
    const moved = document.createDocumentFragment();
    moved.append(...rows);
    this.body.append(moved);
  }

  filter() {
    const wanted = Object.fromEntries(new FormData(this.form));
    const words = (wanted.text ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    this.rows.forEach((row, place) => {
      const { status, classes, outcome } = row.dataset;
      const fits = (!wanted.status || status === wanted.status) && (!wanted.outcome || outcome === wanted.outcome) &&
        (!wanted.class || classes.split(" ").includes(wanted.class)) &&
        words.every((word) => this.texts[place].includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    document.getElementById("shown").textContent = `${shown} of ${this.rows.length} shown`;
    this.remember();
  }

  // What is asked for stands in the address, so that the way back from a slide leads to the same table.
  remember() {
    const state = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) if (value) state.set(name, value);
    const place = this.heads.findIndex((head) => head.hasAttribute("aria-sort"));
    if (place >= 0) state.set("sort", `${place} ${this.heads[place].getAttribute("aria-sort")}`);
    history.replaceState(null, "", `#${state}`);
  }

  restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of state) {
      const field = name === "sort" ? null : this.form.elements.namedItem(name);
      if (field && "value" in field) field.value = value;
    }
    const [place, way] = (state.get("sort") ?? "").split(" ");
    if (way && this.heads[place]) this.sort(Number(place), way === "descending");
    this.filter();
  }
}

// A window over the page with one tile, and the way to the next.
class Enlarged {
  constructor(links) {
    this.links = links;
    this.dialog = document.createElement("dialog");
    this.picture = document.createElement("img");
    this.caption = document.createElement("span");
    const row = document.createElement("div");
    row.append(this.button("← Previous", () => this.show(this.at - 1)), this.caption,
      this.button("Next →", () => this.show(this.at + 1)), this.button("Close", () => this.dialog.close()));
    this.dialog.append(this.picture, row);
    this.dialog.setAttribute("aria-label", "Tile, enlarged");
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.show(this.at - 1);
      if (event.key === "ArrowRight") this.show(this.at + 1);
    });
    this.dialog.addEventListener("close", () => this.links[this.at].focus());
    document.body.append(this.dialog);
    links.forEach((link, place) => link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.show(place);
      this.dialog.showModal();
    }));
  }

  button(words, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = words;
    made.addEventListener("click", act);
    return made;
  }

  show(place) {
    this.at = (place + this.links.length) % this.links.length;
    const link = this.links[this.at];
    this.picture.src = link.href;
    this.picture.alt = link.querySelector("img").alt;
    this.caption.textContent = this.picture.alt;
  }
}

const table = document.getElementById("slides");
if (table) new SlideTable(table, document.getElementById("filters"));
const links = Array.from(document.querySelectorAll("a.enlarge"));
if (links.length) new Enlarged(links);
