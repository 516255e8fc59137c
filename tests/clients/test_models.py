"""GET /v1/models with both official clients."""

from conftest import MODEL


def test_openai_shape(openai_client):
    assert MODEL in [model.id for model in openai_client.models.list()]
    assert openai_client.models.retrieve(MODEL).owned_by == "deepseek-ai"


def test_anthropic_shape(anthropic_client):
    assert MODEL in [model.id for model in anthropic_client.models.list(limit=1000)]
    assert anthropic_client.models.retrieve(MODEL).type == "model"
