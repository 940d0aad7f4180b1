"""Networks compiled into lists of operations: `graph` reads the network, `builder` lays it out in `memory`,
`evaluation` runs logits and attacks, `training` whole training steps."""
