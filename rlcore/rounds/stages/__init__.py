"""What each kind of stage does. A stage is a function of a `StageContext` that returns the artefact it made."""
