"""Steps that an event loop takes, and those that are left by whoever wanted what they return."""

from contextvars import ContextVar, copy_context

import pytest

from cache_app.core.steps import Going, done, run

WHO = ContextVar("who", default="nobody")


class Asked:
    """A question that the test answers."""

    def __init__(self):
        self.then = None

    def wait(self):
        return "waited"

    def begin(self, via, then):
        self.via, self.then = via, then


class Leaves(Asked):
    """One that need not be waited for."""

    given_up = False

    def give_up(self):
        self.given_up = True


class Heard(list):
    """What `then` heard."""

    def __call__(self, answer, error):
        self.append((answer, error))


def two(first, second, cleaned):
    try:
        a = yield first
        b = yield second
        return a, b, WHO.get()
    finally:
        cleaned.append(True)


def test_each_question_is_asked_through_what_was_given_and_its_answer_goes_on():
    first, second, cleaned, heard = Asked(), Asked(), [], Heard()
    context = copy_context()
    context.run(WHO.set, "me")
    Going(two(first, second, cleaned), heard, "via", context).go_on()
    assert (first.via, second.then, heard) == ("via", None, [])
    first.then("a", None)
    second.then("b", None)
    assert heard == [(("a", "b", "me"), None)]
    assert (cleaned, WHO.get()) == ([True], "nobody")
    assert run(two(Asked(), Asked(), [])) == ("waited", "waited", "nobody")


def test_an_error_instead_of_an_answer_is_raised_where_it_was_asked():
    first, cleaned, heard = Asked(), [], Heard()
    Going(two(first, Asked(), cleaned), heard, None).go_on()
    error = OSError("no")
    first.then(None, error)
    assert (heard, cleaned) == ([(None, error)], [True])


def test_steps_that_ask_nothing_end_at_once():
    heard = Heard()
    Going(done(max, 1, 2), heard, None).go_on()
    assert heard == [(2, None)]


def test_what_waits_for_what_can_be_given_up_is_left_at_once():
    question, cleaned, heard = Leaves(), [], Heard()
    going = Going(two(question, Asked(), cleaned), heard, None)
    going.go_on()
    going.leave(error := LookupError())
    assert (question.given_up, cleaned, heard) == (True, [True], [(None, error)])


@pytest.mark.parametrize("after", [Leaves, Asked])
def test_else_the_answer_is_taken_and_it_is_left_later_if_at_all(after):
    """What a server was asked may hold something that must be given back."""
    question, second, cleaned, heard = Asked(), after(), [], Heard()
    going = Going(two(question, second, cleaned), heard, None)
    going.go_on()
    going.leave(error := LookupError())
    assert heard == []
    question.then("a", None)
    if after is Leaves:
        assert (second.then, heard) == (None, [(None, error)]), "it is not asked any more"
    else:
        second.then("b", None)
        assert heard == [(("a", "b", "nobody"), None)]
    assert cleaned == [True]


def test_steps_that_have_ended_are_not_left():
    heard = Heard()
    going = Going(done(max, 1, 2), heard, None)
    going.go_on()
    going.leave(LookupError())
    assert heard == [(2, None)]


def test_an_answer_that_is_there_already_goes_on_at_once():
    class There(Asked):
        def begin(self, via, then):
            then(7, None)

    heard = Heard()
    Going(two(There(), There(), []), heard, None).go_on()
    assert heard == [((7, 7, "nobody"), None)]
