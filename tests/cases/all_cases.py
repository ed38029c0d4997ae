"""All cases of datasets, by name."""

from tests.cases.coco_file_cases import COCO_FILE_CASES
from tests.cases.coco_id_cases import COCO_ID_CASES
from tests.cases.coco_value_cases import COCO_VALUE_CASES
from tests.cases.folder_cases import FOLDER_CASES
from tests.cases.tool_cases import TOOL_CASES
from tests.cases.voc_file_cases import VOC_FILE_CASES
from tests.cases.voc_value_cases import VOC_VALUE_CASES
from tests.cases.yolo_cases import YOLO_CASES

_GROUPS = (
    COCO_VALUE_CASES,
    COCO_ID_CASES,
    COCO_FILE_CASES,
    VOC_VALUE_CASES,
    VOC_FILE_CASES,
    YOLO_CASES,
    TOOL_CASES,
    FOLDER_CASES,
)
CASES = {name: case for group in _GROUPS for name, case in group.items()}
assert len(CASES) == sum(map(len, _GROUPS)), "two cases have the same name"
