"""Classifiers that are trained by other methods than flow matching.

Importing this package registers them with detectron2.
"""

from flowdet.flowcls.baselines.backprop import BackpropClassifier
from flowdet.flowcls.baselines.contrastive_forward_forward import (
    ContrastiveForwardForwardClassifier,
)
from flowdet.flowcls.baselines.forward_forward import ForwardForwardClassifier
from flowdet.flowcls.baselines.layer_collaboration import LayerCollaborationClassifier
from flowdet.flowcls.baselines.local_classifier import LocalClassifier
from flowdet.flowcls.baselines.noprop import NoPropClassifier
from flowdet.flowcls.baselines.soft_hebb import SoftHebbClassifier
from flowdet.flowcls.baselines.stochastic_forward_forward import (
    StochasticForwardForwardClassifier,
)
from flowdet.flowcls.baselines.symba import SymBaClassifier

__all__ = [
    "BackpropClassifier",
    "ContrastiveForwardForwardClassifier",
    "ForwardForwardClassifier",
    "LayerCollaborationClassifier",
    "LocalClassifier",
    "NoPropClassifier",
    "SoftHebbClassifier",
    "StochasticForwardForwardClassifier",
    "SymBaClassifier",
]
