"""The public names of spikec but for those of ``spikec.diagnosis``; ``spikec`` imports them when one is asked for."""

from importlib.metadata import version

from spikec.calibration.calibration import Calibration
from spikec.calibration.normalization import Normalization
from spikec.checking import check
from spikec.compilation import Compilation
from spikec.driver import Compiler, calibrate, compile
from spikec.extend.backend import Backend
from spikec.extend.loader import backends as targets
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context, Pass
from spikec.interpreter.simulation import Simulation
from spikec.ir.errors import (
    CalibrationError,
    CompileError,
    InvalidModelError,
    MissingDependencyError,
    PluginError,
    Problem,
    SpikecWarning,
    TypeMismatchError,
    UnsupportedOpError,
    VerificationError,
)
from spikec.ir.graph import Graph
from spikec.ir.op import Movement, Op, Role, StatefulOp
from spikec.ir.progress import Progress
from spikec.pipeline.pipeline import Pipeline
from spikec.reading import load
from spikec.repair import Repair, repair
from spikec.running import evaluate, run, simulate
from spikec.saving import save

__version__ = version("spikec")

__all__ = [
    "Backend",
    "Calibration",
    "CalibrationError",
    "Compilation",
    "CompileError",
    "Compiler",
    "Context",
    "Graph",
    "InvalidModelError",
    "MissingDependencyError",
    "Movement",
    "Normalization",
    "Op",
    "Pass",
    "Pipeline",
    "PluginError",
    "Problem",
    "Progress",
    "Repair",
    "Role",
    "Simulation",
    "SpikecWarning",
    "StatefulOp",
    "TypeMismatchError",
    "UnsupportedOpError",
    "VerificationError",
    "calibrate",
    "check",
    "compile",
    "evaluate",
    "load",
    "pass_named",
    "repair",
    "run",
    "save",
    "simulate",
    "targets",
]
