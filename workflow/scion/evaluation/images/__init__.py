"""Questions about pictures, asked of a release that keeps its vision tower.

Begin with `questions.read_questions`, which reads the file, with `asking.ask_all`, which sends each
question with its picture, and with `results.compared`, which counts what two models said to the
same questions and how far they differ.

It imports the server's address from `scion.engines`, and of evaluation only chats and intervals.

To extend it: a question is a line more in the file; a new demand on an answer is a field of
`questions.Question`, which `Question.accepts` reads.
"""
