"""A table as Markdown, LaTeX or CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

# What LaTeX would read as commands.
_LATEX = str.maketrans({c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"})


@dataclass(frozen=True)
class Table:
    """Headings, and rows of as many texts; columns but the first are aligned to the right.

    caption: a sentence or two that say what the figures are of.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, the caption above it."""
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)], *self.rows]
        table = "\n".join(f"| {' | '.join(one.replace('|', chr(92) + '|') for one in line)} |" for line in lines)
        return f"{self.caption}\n\n{table}\n" if self.caption else f"{table}\n"

    def latex(self) -> str:
        """As a LaTeX table, for the package booktabs."""
        head, *body = (
            " & ".join(one.translate(_LATEX) for one in line) + r" \\" for line in (self.headings, *self.rows)
        )
        caption = rf"\caption{{{self.caption.translate(_LATEX)}}}"
        columns = "l" + "r" * (len(self.headings) - 1)
        lines = [
            r"\begin{table}",
            r"\centering",
            *([caption] if self.caption else []),
            rf"\begin{{tabular}}{{{columns}}}",
        ]
        lines += [r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """As CSV, without the caption."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([self.headings, *self.rows])
        return stream.getvalue()
