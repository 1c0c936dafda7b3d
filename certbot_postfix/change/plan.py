"""What would be done to one Postfix instance, as a value that describes itself.

Pure: facts in, `Plan` out.  The diff shown, the note in certbot's checkpoint and the
bytes that `transaction` writes all come from the one `Plan`.
"""

import difflib
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from certbot_postfix.postfix.decisions import Decision, Kept

# The most bytes of a file whose diff is shown: a table may have a million entries.
SHOWN = 2_000_000

# Between a file's name and its digest in the note of a checkpoint.
MARK = ": SHA-256 "


@dataclass(frozen=True, slots=True)
class Edit:
    """A file before and after, byte for byte; None where there is no such file.

    One that is written anew has the *mode*; *map_type* is that as which main.cf refers
    to a map.
    """

    path: Path
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)
    mode: int = 0o600
    map_type: str = ""

    @property
    def empty(self) -> bool:
        """Whether the file is already as it should be."""
        return self.before == self.after

    def diff(self) -> str:
        """Return the unified diff, empty if there is none.

        Of a file that nobody would read to its end, only the numbers of lines.
        """
        texts = [text or b"" for text in (self.before, self.after)]
        if not self.empty and max(map(len, texts)) > SHOWN:
            old, new = (text.count(b"\n") for text in texts)
            message = f"{old} lines become {new}, too many to be shown here"
            return f"--- {self.path}\n+++ (planned)\n@@ {message} @@\n"
        before, after = (
            list(io.StringIO(text.decode(errors="backslashreplace"), newline="\n"))
            for text in (self.before or b"", self.after or b"")
        )
        lines = difflib.unified_diff(before, after, str(self.path), "(planned)")
        marked = (
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in lines
        )
        return "".join(marked).replace("\r\n", "\n")


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions, and what they make of main.cf and of *maps* that it refers to.

    A file that is no map may be among these.
    """

    decisions: tuple[Decision, ...]
    main_cf: Edit
    maps: tuple[Edit, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What becomes of each file, in the order in which they are shown."""
        return (*self.maps, self.main_cf)

    @property
    def empty(self) -> bool:
        """Whether all files already are as they should be."""
        return all(edit.empty for edit in self.edits)

    def diff(self) -> str:
        """Return the unified diff of the files, empty if there is none."""
        return "".join(edit.diff() for edit in self.edits)

    def notes(self) -> list[str]:
        """Return what stays otherwise than the profile would have it."""
        return [str(item) for item in self.decisions if isinstance(item, Kept)]

    def describe(self) -> str:
        """Return the changes, a line each, for certbot's checkpoint."""
        main_cf = self.main_cf.path
        lines = (str(item) for item in self.decisions if not isinstance(item, Kept))
        text = "".join(f"{main_cf}: {line}\n" for line in lines)
        text += f"{main_cf}{MARK}{digest(self.main_cf.after or b'')}\n"
        return ascii_only(text)


def ascii_only(text: str) -> str:
    """Return *text* as certbot can write it in the encoding of any locale."""
    return text.encode("ascii", "backslashreplace").decode()


def digest(text: bytes) -> str:
    """Return what tells whether a file is still as a plan left it."""
    return hashlib.sha256(text).hexdigest()
