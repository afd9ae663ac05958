"""Views: what a model is shown of a transcript. A view never changes the transcript under it."""
