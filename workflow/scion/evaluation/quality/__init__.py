"""How near a release is to its source: loss, KL divergence and agreement on held-out tokens.

It is measured in two ways, and both take the document for the unit of their intervals:

- On a server, for the stage evaluate_quality, from lists of the most likely tokens. Begin with
  `served.ScoringServer`; `top_k_scores.compare_predictions` computes the scores of a document and
  `top_k_scores.predictions_record` those of a part with their intervals.
- In torch, for compare_recipes, over the whole vocabulary. Begin with `full_vocabulary.score`;
  `full_vocabulary.sums_record` has the intervals.

`documents.Document` is what both read, tokenized by a server (`documents.tokenize_documents`) or by
the checkpoint's own tokenizer (`offline_documents.read_documents`).

It imports servers from `scion.engines`, artifacts and checkpoints, and of evaluation chats,
intervals and, for its tokenizer, `offline.prompts`.

To extend it: a score is an attribute more of `Divergence`, or of `Places` and `Sums`, and a key
more of the record; a part of the documents is a mask more in `record` and `full_vocabulary.score`.
"""
