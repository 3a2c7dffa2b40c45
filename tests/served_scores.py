"""How likely a server and the same numbers in torch find the tokens of a text."""

import torch

from scion.engines.server import Server
from scion.evaluation.offline.target import Target


def server_scores(server: Server, name: str, tokens: list[int]) -> torch.Tensor:
    """The log probability of each token but the first, by the model of that name."""
    body = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    answer = server.ask("/v1/completions", {"model": name, **body})
    rows = answer["choices"][0]["prompt_logprobs"][1:]
    return torch.tensor([row[str(t)]["logprob"] for t, row in zip(tokens[1:], rows, strict=True)])


@torch.inference_mode()
def target_scores(target: Target, tokens: list[int]) -> torch.Tensor:
    """The same in torch."""
    hidden = target._model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    scores = target.head(hidden[:-1]).float().log_softmax(-1)
    return scores.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
