"""The bundled model's world: scenes of shapes, their captions, their edits and their pixels."""
