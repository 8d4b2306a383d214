"""Chat templates: prompt and response are the conversation's own tokens, and only the model's words are trained on."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlcore.data.examples.load import ExampleKind, ExamplesConfig, Turns, load_examples
from rlcore.data.sources.readers import DataError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
U1, A1, U2, A2 = (
    {"role": role, "content": content}
    for role, content in (
        ("user", "what is two?"),
        ("assistant", "It is two"),
        ("user", "and three?"),
        ("assistant", " ok"),
    )
)
SYSTEM = {"role": "system", "content": "short"}


def make_tokenizer(template: str, specials=SPECIALS, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens are words and line breaks, so that tokens can reach over a border."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    corpus = ["user\nassistant\n\nwhat is two?\n\nIt is two and three? ok system short"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, extra_special_tokens=list(specials))
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def chatml():
    return make_tokenizer(CHATML)


def load(tmp_path: Path, tokenizer, rows: list, kind: str = "demonstrations", **changes):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(ExamplesConfig(ExampleKind(kind), path=str(path), chat_template=True, **changes), tokenizer)


def trained(tokenizer, sample) -> str:
    mask = sample.loss_mask or [True] * len(sample.token_ids)
    assert len(mask) == len(sample.token_ids)
    return tokenizer.decode([t for t, m in zip(sample.token_ids, mask, strict=True) if m])


def test_a_text_prompt_and_response(tmp_path, chatml):
    rows = [{"prompt": "what is two?", "response": "It is two"}]
    loaded = load(tmp_path, chatml, rows, system_prompt="short", prompt_template="{prompt} \\boxed{}")
    (sample,) = loaded.samples
    assert sample.prompt.text == (
        "<|im_start|>system\nshort<|im_end|>\n"
        "<|im_start|>user\nwhat is two? \\boxed{}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.decode(sample.token_ids) == "It is two<|im_end|>"
    assert (sample.text, sample.loss_mask) == ("It is two", None)
    assert (loaded.notes, loaded.counts["borders_cut"]) == ([], 0)


def test_what_was_asked_is_kept_beside_the_rendered_prompt(tmp_path, chatml):
    row = {"prompt": "1+1", "response": "2", "level": 3}
    (one,) = load(tmp_path, chatml, [row], prompt_template="{prompt}=").samples
    assert one.prompt.metadata == {"level": 3, "raw_prompt": "1+1="}
    assert one.prompt.text != "1+1="


def test_multi_turn_trains_on_the_assistant_alone(tmp_path, chatml):
    messages = [SYSTEM, U1, A1, U2, A2]
    loaded = load(tmp_path, chatml, [{"messages": messages}])
    (sample,) = loaded.samples
    whole = tuple(chatml.apply_chat_template(messages, tokenize=True)["input_ids"])
    line_break = chatml("\n", add_special_tokens=False)["input_ids"]
    assert sample.prompt.token_ids + sample.token_ids == whole[: -len(line_break)]  # the template's last line break
    assert whole[-len(line_break) :] == tuple(line_break)
    asked = chatml.apply_chat_template([SYSTEM, U1], tokenize=True, add_generation_prompt=True)["input_ids"]
    assert sample.prompt.token_ids == tuple(asked)
    assert trained(chatml, sample) == "It is two<|im_end|> ok<|im_end|>"
    assert sample.num_trained < len(sample.token_ids)
    assert sample.text == "It is two\nuser\nand three?\nassistant\n ok"


def test_turns_last_and_each(tmp_path, chatml):
    rows = [{"messages": [U1, A1, U2, A2], "uid": "u"}, {"messages": [U1, A1]}]
    last = load(tmp_path, chatml, rows, turns=Turns.last).samples
    assert [(s.prompt.uid, trained(chatml, s)) for s in last] == [
        ("u", " ok<|im_end|>"),
        ("a-2", "It is two<|im_end|>"),
    ]
    assert last[0].prompt.text == chatml.apply_chat_template([U1, A1, U2], tokenize=False, add_generation_prompt=True)
    each = load(tmp_path, chatml, rows, turns=Turns.each)
    assert [s.sample_id for s in each.samples] == ["u.0#0.0", "u.1#0.0", "a-2#0.0"]
    assert each.samples[1].token_ids == last[0].token_ids
    assert (each.counts["rows"], each.counts["extra_turns"], each.counts["records"]) == (2, 1, 3)


def test_other_ways_to_write_a_conversation(tmp_path, chatml):
    sharegpt = [{"from": "human", "value": U1["content"]}, {"from": "gpt", "value": A1["content"]}]
    rows = [
        {"messages": [U1, A1]},
        {"messages": sharegpt},
        {"messages": f"\n\nHuman: {U1['content']}\n\nAssistant: {A1['content']}"},
        {"messages": [{**U1, "name": None}, {**A1, "name": None}]},  # as tables have it
        {"messages": [U1, {**A1, "content": A1["content"] + "<|im_end|>\n"}]},  # the end token is in the text already
    ]
    one, *others = load(tmp_path, chatml, rows).samples
    for other in others:
        assert (other.prompt.token_ids, other.token_ids) == (one.prompt.token_ids, one.token_ids)
    columns = [{"prompt": [U1], "response": A1["content"]}, {"prompt": [U1], "response": [A1]}]
    columns += [{"prompt": U1["content"], "response": [A1]}, {"prompt": [U1], "response": [U1, A1]}]
    for other in load(tmp_path, chatml, columns).samples:
        assert (other.prompt.token_ids, other.token_ids) == (one.prompt.token_ids, one.token_ids)


def test_every_way_to_write_a_preference(tmp_path, chatml):
    bad = {"role": "assistant", "content": "It is three"}
    talk = "\n\nHuman: what is two?\n\nAssistant: "
    rows = [
        {"prompt": [U1], "chosen": [A1], "rejected": [bad]},  # explicit
        {"chosen": [U1, A1], "rejected": [U1, bad]},  # implicit
        {"prompt": "what is two?", "chosen": [U1, A1], "rejected": [U1, bad]},  # UltraFeedback
        {"prompt": [U1], "chosen": [U1, A1], "rejected": [U1, bad]},
        {"prompt": "what is two?", "chosen": "It is two", "rejected": "It is three"},
        {"chosen": talk + "It is two", "rejected": talk + "It is three"},  # HH
    ]
    pairs = load(tmp_path, chatml, rows, "preferences").pairs
    assert len({(p.prompt.token_ids, p.chosen.token_ids, p.rejected.token_ids) for p in pairs}) == 1
    assert chatml.decode(pairs[0].rejected.token_ids) == "It is three<|im_end|>"
    assert pairs[0].chosen.prompt is pairs[0].prompt


def test_answers_of_several_turns_in_a_pair(tmp_path, chatml):
    other = {"role": "assistant", "content": "no"}
    (pair,) = load(
        tmp_path, chatml, [{"chosen": [U1, A1, U2, A2], "rejected": [U1, other, U2, A2]}], "preferences"
    ).pairs
    assert trained(chatml, pair.chosen) == "It is two<|im_end|> ok<|im_end|>"
    assert trained(chatml, pair.rejected) == "no<|im_end|> ok<|im_end|>"
    assert pair.chosen.loss_mask.count(False) == pair.rejected.loss_mask.count(False) > 0


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "demonstrations",
            {"messages": [U1, {"role": "asistant", "content": "x"}]},
            "the unknown role 'asistant'; the",
        ),
        ("demonstrations", {"messages": [U1, U2, A1]}, "message 1 is a user message after a user; assistant is wanted"),
        ("demonstrations", {"messages": [A1, U1, A2]}, "message 0 is an assistant message at the start"),
        ("demonstrations", {"messages": [U1, A1, SYSTEM]}, "message 2 is a system message after an assistant"),
        ("demonstrations", {"messages": [U1, A1, U2]}, "messages ends with the user's message"),
        (
            "demonstrations",
            {"messages": [U1, {"role": "assistant", "content": " "}]},
            r"message 1 \(assistant\) is empty",
        ),
        ("demonstrations", {"messages": [U1, {"role": "assistant", "content": "<|im_end|>"}]}, "has only an end token"),
        ("demonstrations", {"messages": []}, "messages is empty"),
        ("demonstrations", {"messages": "hello"}, "messages must be a list of messages, not 'hello'"),
        ("demonstrations", {"messages": ["hello"]}, r"messages holds 'hello' \(str\); a message is"),
        ("prompts", {"prompt": [U1, A1]}, "prompt ends with an assistant message; the last one"),
        ("preferences", {"chosen": [U1, A1], "rejected": [U2, A1]}, "have no common first message"),
        ("preferences", {"chosen": [U1, A1], "rejected": [U1, A1]}, "chosen equals rejected"),
        (
            "preferences",
            {"chosen": [U1, A1], "rejected": [U1, {**A1, "content": "It is two<|im_end|>"}]},
            "same tokens",
        ),
        ("preferences", {"prompt": "else", "chosen": [U1, A1], "rejected": [U1, A2]}, "is none of the messages that"),
        (
            "preferences",
            {"chosen": [A1], "rejected": [A2]},
            "no column 'prompt', and chosen begins with the assistant's",
        ),
    ],
)
def test_a_broken_conversation_is_named(tmp_path, chatml, kind, row, message):
    with pytest.raises(DataError) as caught:
        load(tmp_path, chatml, [row], kind)
    assert "line 1: " in str(caught.value)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_tokens_that_would_reach_over_the_border_are_cut_and_counted(tmp_path):
    says = "{{ 'us' if m.role == 'assistant' else '' }}{{ m.content }}"
    template = f"{{% for m in messages %}}{says}{{% endfor %}}{{% if add_generation_prompt %}}us{{% endif %}}"
    tokenizer = make_tokenizer(template, eos="<|endoftext|>")
    loaded = load(tmp_path, tokenizer, [{"prompt": "two\n", "response": "er"}])
    (sample,) = loaded.samples
    assert sample.prompt.text == "two\nus"
    assert sample.prompt.token_ids == tuple(tokenizer("two\nus")["input_ids"])  # as when it is sampled from
    assert sample.token_ids == (*tokenizer("er")["input_ids"], tokenizer.eos_token_id)
    whole = tokenizer("two\nuser")["input_ids"]
    assert tuple(whole[: len(sample.prompt.token_ids)]) != sample.prompt.token_ids  # "user" is one token
    assert (loaded.counts["borders_cut"], sample.loss_mask) == (1, None)  # the end token put behind is trained on
    assert "ends a turn with no special token: <|endoftext|> is appended" in loaded.notes[0]


def test_a_template_whose_end_token_is_not_the_tokenizers(tmp_path):
    loaded = load(tmp_path, make_tokenizer(CHATML, eos="<|endoftext|>"), [{"messages": [U1, A1, U2, A2]}])
    assert loaded.samples[0].token_ids[-1] == SPECIALS.index("<|im_end|>")
    assert "ends a turn with <|im_end|>, the tokenizer's end token is <|endoftext|>" in loaded.notes[0]


def test_templates_that_make_it_impossible_say_so(tmp_path):
    thinks = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    with pytest.raises(
        DataError, match=r"line 1: the chat template does not continue the prompt with the answer.*<think>"
    ):
        load(tmp_path, make_tokenizer(thinks), [{"prompt": "a", "response": "b"}])
    forgets = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else '...' }}")
    tokenizer = make_tokenizer(forgets)
    with pytest.raises(DataError, match=r"rewrites turn 0 when others follow.*use turns=last or turns=each"):
        load(tmp_path, tokenizer, [{"messages": [U1, A1, U2, A2]}])
    assert len(load(tmp_path, tokenizer, [{"messages": [U1, A1, U2, A2]}], turns=Turns.each).records) == 2
    with pytest.raises(DataError, match="the chat template omits answers that are text"):
        load(tmp_path, make_tokenizer(CHATML.replace("{{ m.content }}", "")), [{"prompt": "a", "response": "b"}])
    refuses = "{{ raise_exception('not me') }}"
    with pytest.raises(DataError, match="line 1: the chat template rejects it: not me"):
        load(tmp_path, make_tokenizer(refuses), [{"prompt": "a", "response": "b"}])


REAL = {  # template: what ends a turn
    "qwen2_5": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>", "lfm2": "<|im_end|>",
    "qwen3_training": "<|im_end|>", "cohere": "<|END_OF_TURN_TOKEN|>",
}  # fmt: skip


@pytest.mark.parametrize("name", list(REAL))
def test_real_templates(tmp_path, name):
    """Those that TRL ships, as the models' authors wrote them."""
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    file = Path(spec.origin).parent / "chat_templates" / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"this trl ships no {file.name}")
    template = file.read_text()
    specials = sorted({*re.findall(r"<\|\w+\|>|<\w+_of_turn>", template), "<bos>", "<eos>"})
    tokenizer = make_tokenizer(template, specials, eos="<eos>")
    tokenizer.bos_token = "<bos>"
    messages = [U1, A1, U2, {**A2, "content": "ok"}]
    (sample,) = load(tmp_path, tokenizer, [{"messages": messages}]).samples
    whole, made = (
        tokenizer.apply_chat_template(messages, tokenize=False),
        sample.prompt.text + tokenizer.decode(sample.token_ids),
    )
    assert whole.startswith(made)
    assert whole[len(made) :].replace("<eos>", "").strip() == ""
    think = "<think>\n\n</think>\n\n" if name.startswith("qwen3") else ""
    assert trained(tokenizer, sample) == f"{think}It is two{REAL[name]}{think}ok{REAL[name]}"
    (last,) = load(tmp_path, tokenizer, [{"messages": messages}], turns=Turns.last).samples
    assert tokenizer.decode(last.token_ids) == f"{think}ok{REAL[name]}"
