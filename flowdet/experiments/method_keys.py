"""The methods that measurements compare: by name, the keys that turn a flow config into the method.

Commands read the names before torch is loaded.
"""

from __future__ import annotations

# tools/measure_memory.py
MEMORY_METHODS: dict[str, dict[str, object]] = {
    "flow_joint": {
        "MODEL.META_ARCHITECTURE": "FlowMatchingDetector",
        "MODEL.FLOW_DET.SCHEDULE": "joint",
    },
    "flow_alternate": {
        "MODEL.META_ARCHITECTURE": "FlowMatchingDetector",
        "MODEL.FLOW_DET.SCHEDULE": "alternate",
        # any number works: a single step trains one block
        "MODEL.FLOW_DET.ITERS_PER_EPOCH": 1,
    },
    "backprop": {
        "MODEL.META_ARCHITECTURE": "BackpropDetector",
        "MODEL.FLOW_DET.CHECKPOINT_BLOCKS": False,
    },
    "backprop_checkpointed": {
        "MODEL.META_ARCHITECTURE": "BackpropDetector",
        "MODEL.FLOW_DET.CHECKPOINT_BLOCKS": True,
    },
}

# tools/measure_gradients.py
GRADIENT_METHODS: dict[str, dict[str, object]] = {
    "flow": {
        "MODEL.META_ARCHITECTURE": "FlowMatchingDetector",
        # with this schedule every block gets a gradient in every batch
        "MODEL.FLOW_DET.SCHEDULE": "joint",
    },
    # "a single end-to-end loss" (B.3)
    "backprop": {
        "MODEL.META_ARCHITECTURE": "BackpropDetector",
        "MODEL.FLOW_DET.AUXILIARY_LOSSES": False,
    },
    "backprop_auxiliary": {
        "MODEL.META_ARCHITECTURE": "BackpropDetector",
        "MODEL.FLOW_DET.AUXILIARY_LOSSES": True,
    },
}
