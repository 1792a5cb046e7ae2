"""From a model folder to what a server runs."""

from electra_tf.errors import UserError
from electra_tf.export.pretrained import (
    DiscriminatorServables,
    GeneratorServables,
    SequenceDiscriminatorServables,
)
from electra_tf.export.question_answering import QuestionAnsweringServables
from electra_tf.export.tagging import TaggingServables
from electra_tf.export.text_tasks import (
    ClassificationServables,
    MultipleChoiceServables,
    RegressionServables,
)
from electra_tf.interop import huggingface
from electra_tf.modeling.electra import Discriminator, Generator, SequenceDiscriminator
from electra_tf.tasks.model_folder import is_finetuned, load_finetuned
from electra_tf.tokenization import Tokenizer

_BY_KIND = {
    "classification": ClassificationServables,
    "multiple_choice": MultipleChoiceServables,
    "qa": QuestionAnsweringServables,
    "regression": RegressionServables,
    "tagging": TaggingServables,
}
# By what `config.json` calls a pre-trained network; others are discriminators.
_PRETRAINED = {
    "ElectraForMaskedLM": (Generator, GeneratorServables),
    "SequenceDiscriminator": (SequenceDiscriminator, SequenceDiscriminatorServables),
}


def load_servables(folder, max_seq_length=None, task=None, top_k=None):
    """The `servables.Servables` of a model folder.

    Args:
      folder: of a discriminator, of a generator, of a run (its discriminator) or of a fine-tuned model.
      max_seq_length: of the sequences to be served; None for what the model was trained with, or of a
        pre-trained network for all of its positions.
      task: name of the task, of a folder with several.
      top_k: of a generator, pieces that are proposed for each [MASK]; None for 5.

    Raises:
      UserError: a file is missing or malformed, there is no such task, sequences are longer than the
        model's positions, or `top_k` is for no generator.
    """
    if is_finetuned(folder):
        finetuned = load_finetuned(folder, task)
        servables = _BY_KIND[finetuned.task.config.kind](finetuned)
    else:
        if task:
            raise UserError(f"--task={task}: {folder} is no fine-tuned model")
        servables = _load_pretrained(huggingface.find_encoder(folder))
    if top_k:
        if not isinstance(servables, GeneratorServables):
            raise UserError(f"--top_k={top_k}: {folder} is no generator")
        servables.top_k = min(top_k, servables.tokenizer.vocab_size)
    most = servables.network.config.max_position_embeddings
    least = servables.min_seq_length
    if max_seq_length is not None and not least <= max_seq_length <= most:
        raise UserError(
            f"--max_seq_length={max_seq_length}: the model has {most} positions; give {least} to {most}"
        )
    servables.max_seq_length = max_seq_length or servables.max_seq_length
    return servables


def _load_pretrained(folder):
    network_class, servables = Discriminator, DiscriminatorServables
    for name in huggingface.architectures(folder):
        network_class, servables = _PRETRAINED.get(name, (network_class, servables))
    network = network_class.from_pretrained(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.check_fits(network.config.vocab_size, folder)
    return servables(network, tokenizer, network.config.max_position_embeddings)
