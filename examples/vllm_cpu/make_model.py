"""Save a tiny Llama with random weights, a tokenizer and a chat template, without any download.

    python make_model.py FOLDER

What it says is gibberish, but it says it as a real model would, so a server can be tuned with it.
The weights and the vocabulary are the same every time. A folder that has a model is left alone.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics  # half a megabyte of English that is always there

VOCABULARY = 4096
CONTEXT = 2048
SEED = 0
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python make_model.py FOLDER")
    folder = Path(sys.argv[1])
    if (folder / "model.safetensors").exists():  # the last file to be written
        return
    save_tokenizer(folder)
    save_model(folder)


def save_tokenizer(folder: Path) -> None:
    """Train a tokenizer on Python's own documentation.

    It knows no bytes, only printable characters, so every token is text that can be streamed at
    once. A server holds back tokens that are parts of a character, and most random bytes are.
    """
    from tokenizers import (  # type: ignore[import-not-found, unused-ignore]
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast  # type: ignore[import-not-found]

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END, UNKNOWN],
        initial_alphabet=[chr(code) for code in range(ord("!"), ord("~") + 1)],
        show_progress=False,
    )
    text = (line for topic in sorted(topics) for line in topics[topic].splitlines())
    tokenizer.train_from_iterator((line for line in text if line.isascii()), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def save_model(folder: Path) -> None:
    """Save a Llama of 4 layers, small enough that a single core generates fast."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
