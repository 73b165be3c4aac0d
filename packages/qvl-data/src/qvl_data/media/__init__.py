"""Images and videos: paths, checks, pixels, frames. No record and no token is known here."""
