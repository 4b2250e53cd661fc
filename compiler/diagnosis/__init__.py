"""Where the accuracy goes: a spiking network taken apart beside its ANN."""

from spikec.diagnosis.diagnose import diagnose
from spikec.diagnosis.diagnosis import Diagnosis
from spikec.diagnosis.forecast import Forecast
from spikec.diagnosis.pictures import plot_accuracy
from spikec.diagnosis.recording import Recording, record

__all__ = ["Diagnosis", "Forecast", "Recording", "diagnose", "plot_accuracy", "record"]
