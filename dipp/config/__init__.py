"""Pipeline configurations: values, the 188-byte slots they travel in, and the YAML operators write.

`definition` holds the values and their limits, `codec` turns them into slot values and back,
`yaml` reads the ground files. All of it is pure and shared by the node, the shell and the tools.
"""
