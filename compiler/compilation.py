"""What one run of the compiler left, to look at."""

import os
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

import attrs

from spikec.calibration.calibration import Calibration
from spikec.ir.files import path_of
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.templates import render
from spikec.pipeline.manager import Report, StageRecord
from spikec.pipeline.observers import make_folder
from spikec.pipeline.page import Page


@attrs.frozen(eq=False, repr=False)
class Compilation:
    """Everything that one run of the compiler left.

    Attributes:
        artifact: the target's own object.
        graph: the final graph; the interpreter on it is what the artifact is held to.
        stages: the graph after the import and after every pass, with seconds and numeric check.
        ledger: what became of every node of the model.
        report: notes, checks and losses as text.
        output_scale: for each output, what the time-average of the graph's raw output is multiplied by to
            be in ANN units (an array that broadcasts over a sample); one array if there is one output.
        calibration: the statistics that thresholds were chosen from, to ``save`` and to use again for the
            same model; None where there was no data.
        dump_dir: where the page of this compilation is already; None where none was asked for.

    Examples:
        >>> compilation = spikec.Compiler("nir", calibration=images, normalization="max").run(model)
        >>> compilation.ledger
        <spikec ledger: 3 kept, 1 folded, 1 converted>
        >>> [stage.name for stage in compilation.stages if stage.changes][:2]
        ['fold-batchnorm', 'normalize']
    """

    artifact: Any
    graph: Graph
    stages: tuple[StageRecord, ...]
    ledger: Ledger
    report: Report
    calibration: Calibration | None
    dump_dir: Path | None = None

    @property
    def output_scale(self) -> Any:
        """The output's scale as an array, or a tuple with one for each output."""
        scales = tuple(self.graph.type(name).scale for name in self.graph.outputs)
        return scales[0] if len(scales) == 1 else scales

    def __repr__(self) -> str:
        return f"<spikec.Compilation {self.report.title}>"

    def _repr_html_(self) -> str:
        drawing, report, ledger = self.graph.draw(), self.report._repr_html_(), self.ledger._repr_html_()
        return render("compilation.html.j2", title=self.report.title, drawing=drawing, report=report, ledger=ledger)

    def show(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Open the page of this compilation in the browser: every pass, the graph behind it, and what became of layers.

        Args:
            folder: where ``index.html`` is written. If none is given, the page that ``dump_dir`` of the compiler asked
                for is opened, or else one in a temporary folder that stays.

        Returns:
            The path of the page.
        """
        page = None if folder is not None or self.dump_dir is None else self.dump_dir / "index.html"
        if page is None or not page.is_file():
            made = Path(tempfile.mkdtemp(prefix="spikec-")) if folder is None else path_of(folder, "folder")
            make_folder(made)
            page = Page(self.report.title, self.stages, self.report.notes, self.ledger).write(made)
        webbrowser.open(page.resolve().as_uri())
        return page
