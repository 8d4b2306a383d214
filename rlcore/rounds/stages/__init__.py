"""What each kind of stage does. A stage is a function of a `Job` that returns the artefact it made."""
