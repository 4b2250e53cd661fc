"""The best of several ways on, judged on the calibration samples."""

import attrs

from spikec.extend.beginnings import Beginnings
from spikec.extend.passbase import NO_SAMPLES, Context, Pass, rounds
from spikec.interpreter.results import agreement_text
from spikec.ir.graph import Graph
from spikec.ir.progress import track
from spikec.ir.stages import SPIKING


@attrs.frozen
class Choose(Pass):
    """Run each sequence of passes on the same graph, what several begin with once, and keep what agrees best.

    Passes of a sequence are judged together: a threshold that is good only with the bias that goes with it is found,
    where one tuned pass after the other would lose it. That the best of them is no worse than none is the manager's
    check of every tuned pass.

    Attributes:
        candidates: sequences of passes that stay at one stage.
        samples: how many calibration samples all of this is tuned and judged on, if there are more; with 256, which are
            all that are kept, it takes nearly twice as long.
    """

    name = "choose"
    contract = "tuned"
    needs = (SPIKING,)

    candidates: tuple[tuple[Pass, ...], ...] = ()
    samples: int = attrs.field(default=128, validator=rounds())

    @property
    def most_samples(self) -> int:
        """How many samples it asks for."""
        return self.samples

    def run(self, graph: Graph, context: Context) -> int:
        """Try every candidate; the graph becomes what the best one made of it."""
        if not context.tuning_samples(graph):
            context.note("", NO_SAMPLES)
            return 0
        context = attrs.evolve(context, begun=Beginnings())
        best: tuple[tuple[float, float], int, Graph] | None = None
        tried: list[tuple[tuple[Pass, ...], int, Graph]] = [((), 0, graph)]
        for candidate in track(self.candidates, "ways", current=_names):
            begun = (each for each in tried if candidate[: len(each[0])] == each[0])
            done, changes, result = max(begun, key=lambda each: len(each[0]))
            for each in candidate[len(done) :]:
                result = result.copy()
                changes += each.run(result, context)
                done = *done, each
                tried.append((done, changes, result))
            found = context.agreement(result)
            context.note("", f"{' + '.join(map(str, candidate))}: {agreement_text(found)}")
            if best is None or found > best[0]:
                best = found, changes, result
        if best is None:
            return 0
        graph.replace_with(best[2])
        return best[1]


def _names(passes: tuple[Pass, ...]) -> str:
    """Name a way without its options, which take a line each."""
    return " + ".join(each.name for each in passes) or "none"
