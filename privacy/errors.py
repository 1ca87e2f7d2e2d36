"""The one tree of errors.

    UnderstudyError            exit 1   anything that we foresaw
    ├── UsageError             exit 2   a wrong recipe, schema, option or argument
    │   ├── RecipeError                 the recipe
    │   ├── SchemaError                 the schema
    │   └── ConditionError              a condition that no row can meet
    ├── InputError             exit 1   the data cannot be read, or is not what the schema says
    │   └── RowError                    some rows are not; where they stand is for the inside
    ├── ReleaseError           exit 1   a release or a workspace that is damaged
    ├── NoRoom                 exit 1   disk or memory do not suffice
    ├── LedgerError            exit 1   a ledger, its key or its clock that cannot be trusted
    ├── LeakRefused            exit 1   exact evidence was about to leave under a formal guarantee
    ├── GateRefused            exit 3   the evidence does not allow a release
    ├── BudgetRefused          exit 4   the privacy budget does not allow a release
    └── Busy                   exit 5   somebody else is publishing the same thing

A message gives the rule, then the fact, then the remedy. It names files, columns and fields, and never
shows a private value.
"""

from typing import ClassVar


class UnderstudyError(Exception):
    """Whatever Understudy foresaw that can go wrong."""

    exit_code: ClassVar[int] = 1

    run: str | None = None
    """The workspace of the run in which it happened."""

    told: bool = False
    """Whether its command has printed the object that says what is wrong."""


class UsageError(UnderstudyError):
    """What a person wrote is wrong: a recipe, a schema, an option."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe breaks a rule."""


class SchemaError(UsageError):
    """A schema breaks a rule."""


class ConditionError(UsageError):
    """A condition names what does not exist or has no probability."""


class InputError(UnderstudyError):
    """The private data cannot be read or is not what the schema says."""


class RowError(InputError):
    """Some rows are not what the schema says.

    Args:
        before: the message up to where they stand.
        where: where they stand, and how many they are: facts about private rows.
        after: the rest of the message.
    """

    def __init__(self, before: str, where: str, after: str) -> None:
        super().__init__(before, where, after)

    def __str__(self) -> str:
        return "".join(self.args)

    def public(self) -> InputError:
        """The same without where, for a release whose number of rows is private."""
        before, _, after = self.args
        return InputError(before + after)


class ReleaseError(UnderstudyError):
    """A release or a workspace is damaged or not one of ours."""


class NoRoom(UnderstudyError):
    """Disk or memory do not suffice; what was there before is as it was."""


class LedgerError(UnderstudyError):
    """A privacy ledger, its key or its clock cannot be trusted, so nothing may be charged to it."""


class LeakRefused(UnderstudyError):
    """Exact evidence was about to leave under a formal guarantee."""


class GateRefused(UnderstudyError):
    """The evidence does not allow this release."""

    exit_code = 3


class BudgetRefused(UnderstudyError):
    """The privacy budget does not allow this release."""

    exit_code = 4


class Busy(UnderstudyError):
    """Another process is at work on the same run or release."""

    exit_code = 5
