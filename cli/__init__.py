"""The command `deploy`.

`command` parses, dispatches and says what went wrong; `verbs` holds one module for each verb. What
verbs share: `options` on the command line, `samples` that go through a model, `compilation` of it,
the `place` where it runs, `judgement` of a comparison, `files` that are written, `output`, and the
`outcome` of a command.
"""

from .command import main

__all__ = ["main"]
