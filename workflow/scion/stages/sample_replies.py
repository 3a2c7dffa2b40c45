"""Asks a real server of the release for the replies that its MTP head will learn from.

The server runs without drafts, and decodes many requests at once. Some replies are greedy, some
sampled, as the settings say. Dialogues that are given stand beside them, learned from as they are.

`replies.jsonl` in the artifact is what `scion.healing.texts` describes, in the order of the
prompts, then those of other domains, the given dialogues last.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.engines.config import Launch, Serving
from scion.evaluation.chats import Chat, read_chats
from scion.healing.config import ReplySampling
from scion.healing.texts import TEXTS, Domain, write_texts
from scion.stages.served import ServedSettings, ServedStage, recorded, run_served_stage

STAGE = "sample_replies"


class ReplySettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    replies: ReplySampling


def sample_replies(
    *,
    release: Artifact,
    prompts: Path,
    dialogues: Path | None,
    off_domain: Path | None,
    measured: Path,
    output: Output,
    serving: Serving,
    launch: Launch,
    replies: ReplySampling,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Ask every prompt once, and keep the tokens.

    Args:
        release: A complete checkpoint.
        prompts: JSONL of chats to ask.
        dialogues: JSONL of chats to learn from as they are, if there are any.
        off_domain: JSONL of chats of other kinds to ask, if there are any.
        measured: JSONL of the chats that the release is measured with.
        output: Where the artifact goes.
        serving: The server.
        launch: How users serve the release; the server takes no drafts, and more requests at once.
        replies: What is asked.
        python: Interpreter of the serving environment.
        log_folder: Where `sample_replies.server.log` goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A file can't be used; a prompt is measured with; the server can't be started or
            dies; a request fails.
    """
    served = ServedStage(STAGE, serving, python, log_folder)
    alone = launch.model_copy(
        update={"speculative_tokens": 0, "max_num_seqs": replies.parallel_requests}
    )

    def build(draft: Draft) -> None:
        # Here, because transformers take seconds to import, and the store may have the artifact.
        from scion.evaluation.offline.prompts import load_tokenizer
        from scion.healing.replies import asked_texts, given_texts, require_unmeasured

        chats = read_chats(prompts, limit=replies.limit)
        given: Sequence[Chat] = read_chats(dialogues) if dialogues else []
        others: Sequence[Chat] = read_chats(off_domain) if off_domain else []
        learned = [*chats, *given]
        require_unmeasured(learned, {measured: read_chats(measured)})
        if off_domain:
            require_unmeasured(learned, {off_domain: others})
        tokenizer = load_tokenizer(release.folder)
        # No other stage asks for such a server, and the next wants the GPU's memory.
        with served.server(release, alone, shared=False) as server:
            about = served.describe(server, alone)
            of: dict[Domain, Sequence[Chat]] = {"in": chats, "off": others}
            texts = [*asked_texts(server, tokenizer, of, replies, context=launch.max_model_len)]
        own = [text for text in texts if text.domain == "in"]
        said_before = given_texts(tokenizer, given)
        texts += said_before
        write_texts(draft.folder / TEXTS, texts)
        draft.facts |= {
            **about,
            "prompts": len(chats),
            "replies": len(own),
            "reply_tokens": sum(text.said_tokens for text in own),
            "dialogues": len(given),
            "given_tokens": sum(text.said_tokens for text in said_before),
            "off_domain": sum(text.domain == "off" for text in texts),
        }

    given_files = {"dialogues": dialogues, "off_domain": off_domain}
    files = {"prompts": prompts, "measured": measured}
    files |= {name: path for name, path in given_files.items() if path is not None}
    return remake(
        output,
        stage=STAGE,
        inputs={"release": release, **files},
        settings={
            "serving": recorded(serving),
            "launch": alone.model_dump(mode="json", exclude={"title", "name"}),
            "replies": replies.model_dump(mode="json"),
        },
        environment=environment,
        build=build,
    )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        sample_replies,
        __doc__,
        settings=ReplySettings,
        manifests={"release": "pointer of graft_mtp"},
        files={
            "prompts": "JSONL of chats to ask",
            "measured": "JSONL of the chats that the release is measured with",
        },
        optional_files={
            "dialogues": "JSONL of chats to learn from as they are",
            "off_domain": "JSONL of chats of other kinds to ask",
        },
    )


if __name__ == "__main__":
    sys.exit(main())
