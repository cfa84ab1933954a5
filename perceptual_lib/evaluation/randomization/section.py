"""What a profile says of the sanity checks (Sec. 4.5)."""

from pydantic import NonNegativeFloat, PositiveInt

from perceptual_lib.evaluation.sections import ExperimentSection


class Section(ExperimentSection):
    methods: list[str] = ["perceptual", "gradient", "guided_backprop", "grad_cam", "selective_normgrad"]
    seeds: PositiveInt = 2  #: untrained networks that the weights are taken from
    sigma: NonNegativeFloat = 0.0  #: blur of the maps, in pixels of the network's input
