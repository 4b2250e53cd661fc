"""spikec: a compiler from trained networks to spiking ones."""

from importlib.metadata import version

from spikec.accuracy import evaluate
from spikec.backend import Backend
from spikec.calibration import Calibration
from spikec.diagnose_record import Diagnosis
from spikec.diagnose_run import diagnose
from spikec.driver import Compilation, Compiler, calibrate, check, compile, save
from spikec.errors import (
    CalibrationError,
    CompileError,
    InvalidModelError,
    MissingDependencyError,
    Problem,
    SpikecWarning,
    TypeMismatchError,
    UnsupportedOpError,
    VerificationError,
)
from spikec.graph import Graph
from spikec.interp import run
from spikec.loader import backends as targets
from spikec.normalization import Normalization
from spikec.op import Movement, Op, Role, StatefulOp
from spikec.passbase import Context, Pass
from spikec.pipeline import Pipeline
from spikec.reading import load

__version__ = version("spikec")

__all__ = [
    "Backend",
    "Calibration",
    "CalibrationError",
    "Compilation",
    "CompileError",
    "Compiler",
    "Context",
    "Diagnosis",
    "Graph",
    "InvalidModelError",
    "MissingDependencyError",
    "Movement",
    "Normalization",
    "Op",
    "Pass",
    "Pipeline",
    "Problem",
    "Role",
    "SpikecWarning",
    "StatefulOp",
    "TypeMismatchError",
    "UnsupportedOpError",
    "VerificationError",
    "calibrate",
    "check",
    "compile",
    "diagnose",
    "evaluate",
    "load",
    "run",
    "save",
    "targets",
]
