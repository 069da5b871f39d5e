"""What is predicted, in words."""

from mil.task import Task, joined


def test_one_of() -> None:
    task = Task(("a", "b", "c"))
    assert task.logits == 3
    assert task.predicted([0.2, 0.5, 0.3]) == "b"
    assert task.predicted([0.4, 0.2, 0.4]) == "a"
    assert task.in_words([0.2, 0.5, 0.3]) == "class b with probability 0.500"


def test_any_of() -> None:
    task = Task(("a", "b", "c"), "any of")
    assert task.logits == 3
    assert task.predicted([0.5, 0.4, 0.9]) == "a;c"
    assert task.predicted([0.1, 0.4, 0.3]) == ""
    assert task.in_words([0.5, 0.4, 0.9]) == "a 0.500, b 0.400, c 0.900"


def test_one_vs_normal() -> None:
    task = Task(("a", "healthy", "c"), "one vs normal", "healthy")
    assert (task.logits, task.normal_index) == (2, 1)
    assert task.predicted([0.2, 0.5, 0.3]) == "healthy"


def test_joined() -> None:
    assert joined(["a", "b"]) == "a;b"
