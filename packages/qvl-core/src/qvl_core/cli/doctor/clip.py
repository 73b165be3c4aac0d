"""A video of two frames of 16 x 16 pixels, grey 50 and grey 150, H.264 in MP4: made with PyAV for the doctor."""

from __future__ import annotations

# zlib, then base64: 1.4 KB of MP4.
CLIP = (
    "eNp9VE9rFDEUz7YqRYVW7KGHClFbEXS3M+O6aGGwthT3oNCLHkQYskmmM91kMk2y225PHjz4BRQUr4J+AkEQevDgybMVD3oRvSh+"
    "gvVluqXjqs1M8l7en9/Ley8zCCEc216eGiURGkGOwgxIl/oyr/sIobFYcw46IRmxQJeOHO73r31a/v7m607z1eOLH/DO2R8/N4NG"
    "HVcxVZpjv3EZ2GYNRHO3VpZvVOv4+p0l0DFOQbGk8p7gscWB512qBl7grBNr8/m5uY2NjVo3ZVwJktWUXp1zuLXESgE2Krepysw8"
    "pqRFaOhhzePQx4y3hKLt0JuHB5OMiJ7hboclD1lKsOm0gPNwbnpgDmukWejXPDCBBct0k7PIYTmPSJNslYd+A9NEK0kicPWx1VyI"
    "1IDFlc0rjFpg6LqElXHCtlTGw8C/6Ps4JsZGuWmnOTgNANbzSMWx4c7JJhocDCiFUm2SwCbalxmRUr4v8HCmixA0lcS6Y6SZ5VoQ"
    "MAJ5S3Q06UVUyZwUB4LaWE3SDCDAUBNnE2siuYPa4OlqYnPg2rwH6jAYMJFMMxeb8ozTjgMqnF1BNDeJKzMNqY6xbEEVXB1hEwaX"
    "ah5ed7FDr9YANncwBSWbYeMqMMbyPKzjNIeSQuOg4nVoz3rooftwrY7yhw/mz51HY08+w+7Y9ad44sWzFXRibRuh0SmpVBfEQnYT"
    "hv4Yo9+KWUHu3R+VP62G9wvowDEC7yIk3Qb+nm0XMUf/RnOxD47zz7gTg4nQDGfWAJ3mwth9jwFu4Vt5LeHOAoMlG859oZi33xab"
    "asKE3tO4b6Zsecd9Q02SMcGdTYVDd2JgJruyAC0fc4bt6qYZtLyUxvGOFniXr8wa2xLAPzfWsJLNI/ej+E8pXNITqAm0+V+L4THV"
    "78N6AVCXKovbR/tf0OQq0I9bE64hxbLw68xaBR1K3o+/cwnBpRxU8iTeAzG2qPJeSOhuoZqEw5flbk6DjA7JRkq6raFbchvo+C4W"
    "VSU/D2arw6zr3F3JC+rG6XKXoLOa5LkoZ1xNd6/C7EurHOAp+MuSvVrdJN24EdR8eL3gN0wWM0c="
)
