"""Publishing a release: audited first, in one commit, and looked at again afterwards.

- `audited`: the gate. A release whose seal, attestations or lint fail is not published, and what
  was audited is what is sent, byte by byte.
- `changes`: what a repository has of it already, what is to be sent and what goes.
- `transaction`: repository, upload, the one commit, the look at what is there then.
- `refusals`: what went wrong between, and what that means for what is public.

Begin with `transaction.Publisher`.
"""
