"""What models can do, what says so, what they come of, and how they hang together."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from batchmill.openrouter.capabilities import CAPABILITIES, capabilities, check_capability, evidence, tells_parameters
from batchmill.openrouter.list_prices import list_price, usd_text
from batchmill.openrouter.models import ModelFacts, Reasoning
from batchmill.openrouter.traits import TAGS, author_name, author_of, family_of, tags_of
from batchmill.openrouter.variants import aliases_of, base_of, is_alias, variant_of, variants_of

from .shelf_helpers import catalogue, facts

GOLDEN = {
    "audio": 14,
    "caching": 79,
    "files": 51,
    "image_output": 5,
    "json_mode": 258,
    "logprobs": 64,
    "parallel_tool_calls": 1,
    "reasoning": 140,
    "reasoning_effort:high": 6,
    "reasoning_effort:low": 6,
    "reasoning_effort:max": 5,
    "reasoning_effort:medium": 5,
    "reasoning_effort:minimal": 2,
    "reasoning_effort:none": 4,
    "reasoning_effort:xhigh": 4,
    "seed": 260,
    "stop": 266,
    "streaming": 342,
    "structured_outputs": 219,
    "tool_choice": 223,
    "tools": 227,
    "video": 16,
    "vision": 120,
    "web_search": 37,
}


@pytest.mark.parametrize(
    ("fields", "word", "why"),
    [
        ({"parameters": ("tools",)}, "tools", "supported_parameters: tools"),
        ({"parameters": ("tool_choice",)}, "tool_choice", "supported_parameters: tool_choice"),
        ({"parameters": ("parallel_tool_calls",)}, "parallel_tool_calls", "supported_parameters: parallel_tool_calls"),
        ({"parameters": ("structured_outputs",)}, "structured_outputs", "supported_parameters: structured_outputs"),
        ({"parameters": ("response_format",)}, "json_mode", "supported_parameters: response_format"),
        ({"parameters": ("reasoning",)}, "reasoning", "supported_parameters: reasoning"),
        ({"parameters": ("include_reasoning",)}, "reasoning", "supported_parameters: include_reasoning"),
        ({"reasoning": Reasoning()}, "reasoning", "reasoning"),
        ({"reasoning": Reasoning(efforts=("high",))}, "reasoning_effort:high", "reasoning.supported_efforts"),
        ({"parameters": ("logprobs",)}, "logprobs", "supported_parameters: logprobs"),
        ({"parameters": ("seed",)}, "seed", "supported_parameters: seed"),
        ({"parameters": ("stop",)}, "stop", "supported_parameters: stop"),
        ({"parameters": ("web_search_options",)}, "web_search", "supported_parameters: web_search_options"),
        ({"pricing": {"web_search": "0.01"}}, "web_search", "pricing.web_search"),
        ({"pricing": {"input_cache_read": "0.0000001"}}, "caching", "pricing.input_cache_read"),
        ({"input_modalities": ("text", "image")}, "vision", "architecture.input_modalities: image"),
        ({"input_modalities": ("audio",)}, "audio", "architecture.input_modalities: audio"),
        ({"input_modalities": ("video",)}, "video", "architecture.input_modalities: video"),
        ({"input_modalities": ("file",)}, "files", "architecture.input_modalities: file"),
        ({"output_modalities": ("image",)}, "image_output", "architecture.output_modalities: image"),
        ({"output_modalities": ("audio",)}, "audio_output", "architecture.output_modalities: audio"),
        ({}, "streaming", "architecture.output_modalities: text"),
        ({"output_modalities": ()}, "streaming", "every chat model does"),
    ],
)
def test_each_capability_has_the_field_that_says_so(fields: dict[str, Any], word: str, why: str) -> None:
    model = facts(**fields)
    assert word in capabilities(model)
    assert evidence(model)[word] == why
    assert word not in capabilities(facts(output_modalities=("embeddings",)))


@pytest.mark.parametrize(
    ("pricing", "word"),
    [
        ({"web_search": "0"}, "web_search"),
        ({"web_search": "-1"}, "web_search"),
        ({"input_cache_read": "nonsense"}, "caching"),
        ({"input_cache_read": "-1"}, "caching"),
    ],
)
def test_a_price_that_says_nothing_is_no_capability(pricing: dict[str, str], word: str) -> None:
    assert word not in capabilities(facts(pricing=pricing))


def test_every_capability_of_the_packaged_catalogue_has_a_meaning_and_all_are_counted() -> None:
    """A golden count: a change of the rules shows here."""
    found = Counter(word for model in catalogue().values() for word in capabilities(model))
    assert {word for word in found if not word.startswith("reasoning_effort:")} <= set(CAPABILITIES)
    assert found == GOLDEN


def test_a_model_without_parameters_only_keeps_silent() -> None:
    assert not tells_parameters(catalogue()["typesafe/jev-router"])
    assert tells_parameters(catalogue()["openai/gpt-4o-mini"])


def test_a_wrong_word_is_answered_with_the_nearest() -> None:
    check_capability("tools")
    check_capability("reasoning_effort:high")
    with pytest.raises(ValueError, match="no capability is named 'vison'; did you mean 'vision'"):
        check_capability("vison")
    with pytest.raises(ValueError, match="no capability"):
        check_capability("reasoning_effort:")


@pytest.mark.parametrize(
    ("model", "tokenizer", "family"),
    [
        ("openai/gpt-4o", "GPT", "gpt"),
        ("openai/chatgpt-4o-latest", None, "gpt"),
        ("openai/o3", "GPT", "gpt"),
        ("anthropic/claude-haiku-4.5", "Claude", "claude"),
        ("google/gemma-3-27b-it", "Gemini", "gemma"),
        ("google/gemini-2.5-pro", "Gemini", "gemini"),
        ("nvidia/llama-3.1-nemotron-70b-instruct", "Llama3", "llama"),
        ("nvidia/nemotron-nano-9b-v2", "Other", "nemotron"),
        ("deepseek/deepseek-r1-distill-llama-70b", "Llama3", "deepseek"),
        ("qwen/qwq-32b", "Qwen", "qwen"),
        ("mistralai/mixtral-8x7b-instruct", "Mistral", "mistral"),
        ("microsoft/mai-ds-r1", "DeepSeek", "deepseek"),
        ("acme/supernova", "Other", "other"),
        ("acme/one", "Qwen3", "qwen"),
        ("acme/one", None, "other"),
    ],
)
def test_the_family_is_read_off_the_name_and_else_off_the_tokenizer(
    model: str, tokenizer: str | None, family: str
) -> None:
    assert family_of(facts(model, tokenizer=tokenizer)) == family


def test_the_author_is_in_the_id_and_written_out_in_the_name() -> None:
    assert author_of("~openai/gpt-latest") == "openai"
    assert author_name(facts("z-ai/glm", name="Z.AI: GLM")) == "Z.AI"
    assert author_name(facts("z-ai/glm", name="GLM")) == "z-ai"


@pytest.mark.parametrize(
    ("model", "tags"),
    [
        (facts(prompt="0", completion="0"), {"free"}),
        (facts(prompt="0", completion="0", pricing={"request": "0.01"}), {"cheap"}),
        (facts(prompt="0", completion="0", pricing={"overrides": [{"completion": "0.1"}]}), {"cheap", "tiered"}),
        (facts(prompt="0.0000001", completion="0.0000001"), {"cheap"}),
        (facts(prompt="-1", completion="-1"), {"unpriced"}),
        (facts(reasoning=Reasoning()), {"reasoning"}),
        (facts(input_modalities=("text", "image")), {"multimodal"}),
        (facts(context_length=200_000), {"long_context"}),
        (facts(max_completion_tokens=64_000), {"long_output"}),
        (facts("acme/qwen3-coder"), {"code"}),
        (facts("acme/decoder"), set()),
        (facts(hugging_face_id="acme/one"), {"open_weights"}),
        (facts(moderated=True), {"moderated"}),
        (facts(expires="2027-01-01"), {"expiring"}),
        (facts("acme/one-preview"), {"preview"}),
        (facts("acme/expert"), set()),
        (facts(tokenizer="Router"), {"router"}),
        (facts("openrouter/auto", "-1", "-1"), {"router", "unpriced"}),
        (facts("acme/one:batch"), {"batch"}),
        (facts("~acme/one-latest"), {"alias"}),
    ],
)
def test_each_tag_has_a_rule(model: ModelFacts, tags: set[str]) -> None:
    assert tags_of(model) == tags
    assert tags <= set(TAGS)


def test_list_prices_are_usd_a_million_less_the_discount() -> None:
    price = list_price(b'{"prompt": "0.0000025", "completion": "0.00001", "discount": 0.5, "internal_reasoning": "0"}')
    assert (price.input, price.output) == (Decimal("1.25"), Decimal(5))
    assert price.blended == (3 * Decimal("1.25") + 5) / 4
    assert (price.reasoning, price.cache_read, price.request) == (None, None, None)
    assert not price.free


@pytest.mark.parametrize(
    "pricing", [b"{}", b"[]", b"nonsense", b'{"prompt": "0"}', b'{"prompt":"1e-7","completion":"-1"}']
)
def test_a_price_that_nobody_knows_is_none_and_not_free(pricing: bytes) -> None:
    price = list_price(pricing)
    assert price.blended is None
    assert not price.free


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("0", "$0.00"),
        ("0.1", "$0.10"),
        ("0.05", "$0.05"),
        ("0.0225", "$0.0225"),
        ("0.00004567", "$0.0000457"),
        ("1.375", "$1.38"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_dollars_have_cents_at_least_and_three_digits_that_count(usd: str, text: str) -> None:
    assert usd_text(Decimal(usd)) == text


def test_variants_are_related_to_their_base() -> None:
    models = catalogue()
    assert variants_of("moonshotai/kimi-k2:free", models) == ("moonshotai/kimi-k2",)
    assert variants_of("openai/gpt-oss-20b", models) == ("openai/gpt-oss-20b:free",)
    assert base_of("a/b:thinking") == base_of("a/b") == "a/b"
    assert (variant_of("a/b:nitro"), variant_of("a/b")) == ("nitro", None)


def test_an_alias_is_related_to_what_it_stands_for_at_present() -> None:
    models = {
        model.id: model
        for model in (
            facts("acme/one-2026", canonical_slug="acme/one-20260101"),
            facts("~acme/one-latest", alias_target="acme/one-2026"),
            facts("~acme/one-old", alias_target="acme/one-2025"),
        )
    }
    assert aliases_of("acme/one-2026", models) == ("~acme/one-latest",)
    assert is_alias(models["~acme/one-old"])
    assert not is_alias(models["acme/one-2026"])
