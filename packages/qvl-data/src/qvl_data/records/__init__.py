"""Records as users write them: files, formats, and the one checked form that all of them become."""
