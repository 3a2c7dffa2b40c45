"""Trains the picos: `tokenizer`, `base`, `agent`, `reference`; three others on their own.

- `tokenizer` learns the byte-level BPE vocabulary (seconds, CPU).
- `base` trains pico-base from random weights on the broad mix, all tokens, with its MTP layer.
- `agent` fine-tunes pico-base with LoRA on agent dialogues (loss on the assistant's tokens alone),
  merges, and saves it as its real counterpart was saved: `language_model.` three times before
  every key, no MTP tensors.
- `reference` records the logits of the sound pico-agent on this machine's CPU.
- `vision` gives the committed pico-agent a new vision tower and trains both on questions about
  generated pictures, the text on agent dialogues in the same steps. Saved with sound keys, no MTP.
- `one-step` trains another MTP layer on the committed pico-base, which is frozen, for one draft a
  step, as published heads are. Saved alone, as a donor.
- `mixture` trains pico-mixture, a mixture of experts, from random weights on the broad mix and the
  agent dialogues, all tokens, with its MTP layer.

Part of the steps run in NVFP4 arithmetic (weights and activations), because a model this small
does not survive W4A4 otherwise. Everything that was measured goes into training.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText

from dialogues.corpus import Renderer, conversations
from pictures.questions import SPLITS
from training import checkpoint, evaluate
from training.data import Dataset, build_dataset, joined
from training.fakequant import QUANTIZED
from training.loop import Pico, Plan, SecondTask, train
from training.model import MtpLayer, build_body, load_config
from training.pictures import build_pictures
from training.tokenizer import save_tokenizer, train_tokenizer
from training.vision import SeeingPico, spread_weights, vision_config, vision_template

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "assets"
TASKS = HERE.parents[1] / "workflow" / "scion" / "evaluation" / "agent" / "agent_tasks.yaml"

CONFIGS = {"base": "config.json", "agent": "config.json", "mixture": "config-mixture.json"}
CONVERSATIONS = {
    "base": 120_000,
    "agent": 20_000,
    "vision": 20_000,
    "mixture": 120_000,
    "one-step": 30_000,
}
STEPS = {"base": 1300, "agent": 300, "vision": 3000, "mixture": 1300, "one-step": 600}
SECONDS = {"base": 350, "agent": 65, "vision": 400, "mixture": 300, "one-step": 90}
PICTURES_A_DIALOGUE = 5
PICTURES_A_STEP = 384
LORA_RANK = 16
HELD_OUT = 400
HELD_OUT_PICTURES = 300
ARITHMETIC = ((False, "bf16"), (True, "nvfp4_simulated"))


def tokenizer_phase() -> None:
    """Learns the tokenizer from the training side of both mixes."""
    render = Renderer(ASSETS / "chat_template.jinja")
    texts = (render(t) for split in ("base", "agent") for t in conversations(0, split, 0, 10_000))
    save_tokenizer(train_tokenizer(texts), ASSETS)


def base_phase(
    out: Path, *, seed: int, count: int, steps: int, seconds: float, device: torch.device
) -> None:
    """Trains pico-base and its MTP layer on `count` conversations and writes the checkpoint."""
    started = time.monotonic()
    data = build_dataset(ASSETS, seed=seed, split="base", count=count)
    plan = _joint_plan(steps=steps, seconds=seconds, seed=seed)
    _, record = _train_jointly(out, "base", data, plan, device)
    _record(out, "base", record, started, device)


def mixture_phase(
    out: Path, *, seed: int, count: int, steps: int, seconds: float, device: torch.device
) -> None:
    """Trains pico-mixture and its MTP layer and writes the checkpoint.

    A third of its `count` conversations are agent dialogues, since no fine-tune follows.
    """
    started = time.monotonic()
    splits = {"base": count - count // 3, "agent": count // 3}
    data = joined(
        [build_dataset(ASSETS, seed=seed, split=split, count=n) for split, n in splits.items()]
    )
    plan = _joint_plan(steps=steps, seconds=seconds, seed=seed, balance_weight=0.01)
    judge, record = _train_jointly(out, "mixture", data, plan, device)
    _record(out, "mixture", record, started, device)
    _record(out, "mixture", record | {"greedy": judge.tasks()}, started, device)


def _joint_plan(*, steps: int, seconds: float, seed: int, balance_weight: float = 0.0) -> Plan:
    return Plan(
        steps=steps,
        seconds=seconds,
        learning_rate=2e-3,
        batch_tokens=81_920,
        context_weight=0.3,
        mtp_weight=0.5,
        fp4_share=0.5,
        fp4_from=0.25,
        seed=seed,
        balance_weight=balance_weight,
    )


def _train_jointly(
    out: Path, phase: str, data: Dataset, plan: Plan, device: torch.device
) -> tuple[Judge, dict[str, Any]]:
    """Trains a body with its MTP layer from random weights; writes the checkpoint."""
    config = load_config(ASSETS / CONFIGS[phase])
    pico = Pico(build_body(config, seed=plan.seed), MtpLayer(config), device)
    body = [*pico.text.parameters(), *pico.model.lm_head.parameters()]
    curve = train(pico, data, plan, [*body, *pico.mtp.parameters()])
    tensors = _bf16(pico.model) | {f"mtp.{k}": v for k, v in _bf16(pico.mtp).items()}
    folder = out / f"pico-{phase}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_weights(folder, tensors)
    checkpoint.write_companions(folder, ASSETS, CONFIGS[phase])
    judge = Judge(pico, plan.seed)
    record = {"data_sha256": data.digest, "data_tokens": data.tokens, "plan": vars(plan)}
    return judge, record | {"curve": curve, "held_out": judge.losses()}


def agent_phase(
    out: Path, *, seed: int, count: int, steps: int, seconds: float, device: torch.device
) -> None:
    """Fine-tunes pico-base into pico-agent and writes it broken, with digests of the sound one."""
    # Here, not above: no other phase needs it.
    import peft

    started = time.monotonic()
    data = build_dataset(ASSETS, seed=seed, split="agent", count=count)
    pico = _load_base(out, device, seed)
    before = Judge(pico, seed).losses()
    lora = peft.LoraConfig(
        r=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        target_modules=".*" + QUANTIZED.pattern.removesuffix("$"),
    )
    wrapped = peft.get_peft_model(pico.model, lora)
    pico = Pico(pico.model, pico.mtp, device)
    plan = Plan(
        steps=steps,
        seconds=seconds,
        learning_rate=1e-3,
        batch_tokens=65_536,
        context_weight=0.0,
        mtp_weight=0.0,
        fp4_share=0.7,
        fp4_from=0.0,
        seed=seed,
    )
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    curve = train(pico, data, plan, parameters)
    model = wrapped.merge_and_unload()
    tensors = _bf16(model)
    folder = out / "pico-agent"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_weights(folder, tensors, broken=True)
    checkpoint.write_companions(folder, ASSETS, CONFIGS["agent"])
    checkpoint.write_json(out / "reference.json", {"tensors": checkpoint.describe(tensors)})
    judge = Judge(Pico(model, pico.mtp, device), seed)
    record = {"data_sha256": data.digest, "data_tokens": data.tokens, "plan": vars(plan)}
    record |= {"lora_rank": LORA_RANK, "curve": curve, "held_out_before": before}
    record |= {"held_out": judge.losses()}
    _record(out, "agent", record, started, device)
    _record(out, "agent", record | {"greedy": judge.tasks()}, started, device)


def vision_phase(
    out: Path, *, seed: int, count: int, steps: int, seconds: float, device: torch.device
) -> None:
    """Teaches the committed pico-agent to see, and writes pico-vision."""
    started = time.monotonic()
    folder = out / "pico-vision"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_companions(folder, ASSETS, CONFIGS["base"])
    checkpoint.write_json(folder / "config.json", vision_config(ASSETS))
    (folder / "chat_template.jinja").write_text(vision_template(ASSETS))
    data = build_dataset(folder, seed=seed, split="agent", count=count)
    asked = PICTURES_A_DIALOGUE * count
    pictures = build_pictures(folder, seed=seed, split="pictures", count=asked)
    pico = _load_agent(folder / "config.json", device, seed)
    before = Judge(pico, seed).losses()
    plan = Plan(
        steps=steps,
        seconds=seconds,
        learning_rate=4e-4,
        batch_tokens=4_096,
        context_weight=0.0,
        mtp_weight=0.0,
        fp4_share=0.7,
        fp4_from=0.4,
        seed=seed,
    )
    batches = pictures.batches(PICTURES_A_STEP, seed=seed, device=device)
    judged = PictureJudge(pico, folder, seed)
    second = SecondTask(
        "picture_loss",
        lambda: pico.picture_loss(*next(batches)),
        parameters=list(pico.model.model.visual.parameters()),
        learning_rate=2e-3,
        score=judged.share,
    )
    body = [*pico.text.parameters(), *pico.model.lm_head.parameters()]
    curve = train(pico, data, plan, body, second)
    checkpoint.write_weights(folder, _bf16(pico.model))
    judge = Judge(pico, seed)
    record = {"data_sha256": data.digest, "data_tokens": data.tokens, "plan": vars(plan)}
    record |= {"pictures_sha256": pictures.digest, "pictures": asked}
    record |= {"pictures_a_step": PICTURES_A_STEP, "tower_learning_rate": second.learning_rate}
    record |= {"curve": curve, "held_out_before": before, "held_out": judge.losses()}
    _record(out, "vision", record, started, device)
    record |= {"greedy": judge.tasks(), "pictures_right": judged.by_topic()}
    _record(out, "vision", record, started, device)


def one_step_phase(
    out: Path, *, seed: int, count: int, steps: int, seconds: float, device: torch.device
) -> None:
    """Trains a new MTP layer on the frozen pico-base, for the first draft alone; writes a donor."""
    started = time.monotonic()
    data = build_dataset(ASSETS, seed=seed, split="base", count=count)
    pico = _load_base(HERE, device, seed)
    pico.model.requires_grad_(False)
    torch.manual_seed(seed)
    pico = Pico(pico.model, MtpLayer(load_config(ASSETS / CONFIGS["base"])), device, mtp_steps=1)
    plan = Plan(
        steps=steps,
        seconds=seconds,
        learning_rate=2e-3,
        batch_tokens=65_536,
        context_weight=0.3,
        mtp_weight=1.0,
        fp4_share=0.0,
        fp4_from=0.0,
        seed=seed,
    )
    curve = train(pico, data, plan, list(pico.mtp.parameters()))
    head = {f"mtp.{name}": tensor for name, tensor in _bf16(pico.mtp).items()}
    checkpoint.write_head(out / "pico-one-step", head, ASSETS / CONFIGS["base"])
    record = {"data_sha256": data.digest, "data_tokens": data.tokens, "plan": vars(plan)}
    record |= {"curve": curve, "held_out": Judge(pico, seed).losses()}
    _record(out, "one-step", record, started, device)


def reference_phase(out: Path) -> None:
    """Adds the sound pico-agent's logits, computed here in bf16 on the CPU, to reference.json."""
    config = load_config(ASSETS / "config.json")
    # Not `.to(bfloat16)`: that would round the rotary frequencies, which from_pretrained does not.
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    broken = checkpoint.read_weights(out / "pico-agent")
    names = model.state_dict()
    model.load_state_dict({name: broken[checkpoint.broken_name(name)] for name in names})
    ids = torch.arange(14, 270, 4)[None]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    path = out / "reference.json"
    reference = json.loads(path.read_text())
    reference["logits"] = {
        "input_ids": ids[0].tolist(),
        "dtype": "bfloat16",
        "shape": list(logits.shape),
        "sha256": checkpoint.digest(logits),
        "argmax": logits[0].argmax(-1).tolist(),
        "cpu": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    checkpoint.write_json(path, reference)


class Judge:
    """Evaluates a pico on held-out dialogues and on the five agent tasks, exact and as NVFP4."""

    def __init__(self, pico: Pico, seed: int) -> None:
        self.pico = pico
        self.seed = seed
        self.render = Renderer(ASSETS / "chat_template.jinja")
        self.tokenizer = Tokenizer.from_file(str(ASSETS / "tokenizer.json"))

    def _passed(self, prompts: Sequence[evaluate.Prompt]) -> list[bool]:
        outputs = evaluate.greedy(
            lambda ids: self.pico.body(ids)[1], self.tokenizer, prompts, device=self.pico.device
        )
        return [prompt.passed(text) for prompt, text in zip(prompts, outputs, strict=True)]

    def tasks(self) -> dict[str, Any]:
        """The five tasks and 15 held-out tool turns by greedy decoding, exact and as NVFP4."""
        prompts = evaluate.task_prompts(TASKS, self.render)
        talks = list(conversations(self.seed, "heldout", 0, 20))
        calls = evaluate.call_prompts(talks, self.render)[:15]
        result: dict[str, Any] = {}
        for active, name in ARITHMETIC:
            with self.pico.fp4(active):
                passed = self._passed([*prompts, *calls])
            right = passed[len(prompts) :]
            result[name] = {"tasks": passed[: len(prompts)], "calls": [sum(right), len(right)]}
        print(json.dumps(result), file=sys.stderr)
        return result

    def losses(self) -> dict[str, Any]:
        """Held-out loss of both mixes and MTP agreement, exact and as NVFP4."""
        pico = self.pico
        mtp = (pico.mtp, pico.text.embed_tokens, pico.model.lm_head)
        result: dict[str, Any] = {}
        for split in ("base-heldout", "heldout"):
            data = build_dataset(ASSETS, seed=self.seed, split=split, count=HELD_OUT)
            for active, name in ARITHMETIC:
                with pico.fp4(active), torch.autocast(pico.device.type, torch.bfloat16):
                    scores = evaluate.heldout_loss(pico.body, data, device=pico.device, mtp=mtp)
                result.setdefault(name, {})[split] = scores
        print(json.dumps(result), file=sys.stderr)
        return result


class PictureJudge:
    """Asks a pico that sees about held-out pictures."""

    def __init__(self, pico: SeeingPico, folder: Path, seed: int) -> None:
        self.pico = pico
        held_out = build_pictures(
            folder, seed=seed, split="pictures-heldout", count=HELD_OUT_PICTURES
        )
        self.asked = held_out.batch(list(range(HELD_OUT_PICTURES)), pico.device)

    def share(self) -> float:
        """How many answers are exactly as expected, of one."""
        return self.pico.answers_exactly(*self.asked).float().mean().item()

    def by_topic(self) -> dict[str, Any]:
        """Right answers and questions by topic, exact and as NVFP4."""
        result: dict[str, Any] = {}
        for active, name in ARITHMETIC:
            with self.pico.fp4(active):
                right = self.pico.answers_exactly(*self.asked).tolist()
            topics = SPLITS["pictures-heldout"]
            result[name] = {
                topic.__name__.strip("_"): [
                    sum(right[i :: len(topics)]),
                    len(right[i :: len(topics)]),
                ]
                for i, topic in enumerate(topics)
            }
        print(json.dumps(result), file=sys.stderr)
        return result


def _load_base(out: Path, device: torch.device, seed: int) -> Pico:
    config = load_config(ASSETS / "config.json")
    tensors = checkpoint.read_weights(out / "pico-base")
    model, mtp = build_body(config, seed=seed), MtpLayer(config)
    head = "mtp."
    mtp.load_state_dict({k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)})
    model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(head)})
    return Pico(model, mtp, device)


def _load_agent(config_file: Path, device: torch.device, seed: int) -> SeeingPico:
    """The committed pico-agent under a config with another tower, which is random; MTP of its base.

    The head takes no part in the training; what it agrees on afterwards is recorded.
    """
    config = load_config(config_file)
    model, mtp = build_body(config, seed=seed), MtpLayer(config)
    head = "mtp."
    base = checkpoint.read_weights(HERE / "pico-base")
    mtp.load_state_dict({k[len(head) :]: v for k, v in base.items() if k.startswith(head)})
    broken = checkpoint.read_weights(HERE / "pico-agent")
    text = [name for name in model.state_dict() if not name.startswith("model.visual.")]
    found = {name: broken[checkpoint.broken_name(name)] for name in text}
    spread_weights(model.model.visual, seed=seed)
    absent = model.load_state_dict(found, strict=False)
    if absent.unexpected_keys or not all("visual" in name for name in absent.missing_keys):
        raise ValueError(f"pico-agent is not what the config says: {absent}")
    return SeeingPico(model, mtp, device)


@torch.no_grad()
def _bf16(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Rounds a module's weights to bf16 in place and returns them as they will be stored."""
    for parameter in module.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    return {k: v.detach().to("cpu", torch.bfloat16) for k, v in module.state_dict().items()}


def _record(
    out: Path, phase: str, record: dict[str, Any], started: float, device: torch.device
) -> None:
    """Writes one phase's figures into training.json and leaves the others."""
    path = out / "training.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    cuda = device.type == "cuda"
    content[phase] = record | {
        "seconds": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": importlib.metadata.version("tokenizers"),
        }
        | ({"peft": importlib.metadata.version("peft")} if phase == "agent" else {}),
        # Where the checkpoints went says nothing of them.
        "command": shlex.join(
            ["train.py", *("OUT" if Path(word) == out else word for word in sys.argv[1:])]
        ),
    }
    checkpoint.write_json(path, content)


PHASES = {
    "base": base_phase,
    "agent": agent_phase,
    "vision": vision_phase,
    "mixture": mixture_phase,
    "one-step": one_step_phase,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one phase."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phase", choices=("tokenizer", *PHASES, "reference"))
    parser.add_argument("--out", type=Path, default=HERE, help="where checkpoints and figures go")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order")
    parser.add_argument("--conversations", type=int, help=f"default: {CONVERSATIONS}")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--seconds", type=float, help=f"at most so long; default: {SECONDS}")
    parser.add_argument("--device", default="cuda", help="torch device of what trains")
    args = parser.parse_args(argv)
    torch.set_float32_matmul_precision("high")
    device = torch.device(args.device)
    if args.phase == "tokenizer":
        tokenizer_phase()
    elif args.phase == "reference":
        reference_phase(args.out)
    else:
        phase = PHASES[args.phase]
        count = args.conversations or CONVERSATIONS[args.phase]
        steps = args.steps or STEPS[args.phase]
        seconds = args.seconds or SECONDS[args.phase]
        phase(args.out, seed=args.seed, count=count, steps=steps, seconds=seconds, device=device)


if __name__ == "__main__":
    main()
