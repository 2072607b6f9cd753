"""Request ids are UUIDs as the standard library makes them."""

from __future__ import annotations

import uuid

from runyard.request_id import new_request_id


def test_request_id_is_a_random_uuid_in_its_usual_spelling() -> None:
    texts = {new_request_id() for _ in range(200)}

    assert len(texts) == 200
    for text in texts:
        made = uuid.UUID(text)
        assert str(made) == text
        assert (made.version, made.variant) == (4, uuid.RFC_4122)
