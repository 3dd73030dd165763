"""Which conditioning of a session is down, on its way, or due: the portrait and the model's own first latent.

Knows the order of sinks; nothing of messages.
"""


class Conditioning:
    """The sinks of one session.

    Args:
        switch_block: first block that needs the model's own first latent as its sink.
    """

    def __init__(self, switch_block: int) -> None:
        self.switch_block = switch_block
        self._ready = False
        self._new_sink: bytes | None = None
        self._switched = False

    @property
    def ready(self) -> bool:
        """Sink version 0 and the prompt are on their way."""
        return self._ready

    @property
    def has_sink(self) -> bool:
        """The model's own first latent is there and was not sent down."""
        return self._new_sink is not None

    def allows(self, block: int) -> bool:
        """Everything that ``block`` is conditioned on is on its way."""
        return self._ready and (block < self.switch_block or self._switched)

    def portrait_sent(self) -> None:
        """Sink version 0 and the prompt are on their way now."""
        self._ready = True

    def receive_sink(self, data: bytes) -> None:
        """Takes the model's own first latent, a serialized sink."""
        self._new_sink = data

    def new_sink(self) -> bytes:
        """What is to be sent down; only where there is one."""
        assert self._new_sink is not None, "a sink is sent only where one came"
        return self._new_sink

    def sink_sent(self) -> None:
        """The model's own first latent is on its way now."""
        self._new_sink, self._switched = None, True
