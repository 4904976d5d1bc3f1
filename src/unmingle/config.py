"""The base of all typed configs."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen and serializable; an unknown key is an error, not a typing slip that goes unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
