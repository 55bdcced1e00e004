from __future__ import annotations

from collections.abc import Iterator

import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.text.hub import HubSplit
from galore.trainer.data.text.quality import BadRows


class BreaksOff:
    """A streamed data set whose third row does not come."""

    def __init__(self, error: Exception) -> None:
        self.error, self.row = error, 0

    def __iter__(self) -> Iterator[dict[str, object]]:
        for self.row in (1, 2):
            yield {"text": f"row {self.row}".encode()}
        raise self.error

    def state_dict(self) -> dict[str, int]:
        return {"row": self.row}


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [
        (ConnectionError("reset by peer"), RunFailed, "broke off.*reset by peer[\\s\\S]*--resume"),
        (TimeoutError(), RunFailed, "broke off.*TimeoutError"),
        (type("HTTPError", (Exception,), {})("503"), RunFailed, "broke off.*503"),
        (ValueError("bad block\nin shard"), UserError, "a shard cannot be read.*bad block"),
    ],
)
def test_a_stream_that_breaks_off(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: type[UserError], message: str
) -> None:
    monkeypatch.setattr(HubSplit, "open", lambda split: BreaksOff(error))
    texts = HubSplit("c4", "en", "train", "text", 100).texts(None, BadRows("skip"))
    assert [next(texts), next(texts)] == [("row 1", {"row": 1}), ("row 2", {"row": 2})]
    with pytest.raises(outcome, match=message) as caught:
        next(texts)
    assert type(caught.value) is outcome
    assert caught.value.where == "c4 [train]"
