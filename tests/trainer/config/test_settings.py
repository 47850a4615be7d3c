from __future__ import annotations

import pytest

from trainer.config.settings import upload_patience
from trainer.errors import UsageError


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_the_patience_of_uploads_is_a_number_of_seconds(text):
    with pytest.raises(UsageError, match="PIPPA_UPLOAD_PATIENCE"):
        upload_patience({"PIPPA_UPLOAD_PATIENCE": text})
    assert upload_patience({"PIPPA_UPLOAD_PATIENCE": "0"}) == 0 and upload_patience({}) == 3600
