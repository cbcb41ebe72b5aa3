"""The check of what enters a node, where no prompt over HTTP reaches it."""


def test_a_panic_in_a_library_is_an_error_like_others(in_host):
    """Catches the end of ComfyUI's worker thread, after which no prompt is run: it handles Exception only."""

    def look(module):
        class PanicException(BaseException):
            pass

        def run(cls):
            raise PanicException("no entry found for key")

        scheduler = module(".nodes.sample").Scheduler
        scheduler.run = classmethod(run)
        try:
            scheduler.execute()
        except BaseException as error:
            return [type(error).__name__, str(error)]

    kind, message = in_host(look)
    assert kind == "Blip3oError" and "no entry found for key (PanicException)" in message


def test_an_interrupt_passes(in_host):
    """Catches a cancelled prompt that is shown as an error: ComfyUI's interrupt is no Exception, as a panic is none."""

    def look(module):
        import comfy.model_management

        def run(cls):
            raise comfy.model_management.InterruptProcessingException

        scheduler = module(".nodes.sample").Scheduler
        scheduler.run = classmethod(run)
        try:
            scheduler.execute()
        except BaseException as error:
            return type(error).__name__

    assert in_host(look) == "InterruptProcessingException"


def test_direct_calls_keep_their_defaults_and_their_order(in_host):
    """Catches a check that asks for inputs which a caller in Python may leave out, or that mixes up their order."""

    def look(module):
        scheduler, refusals = module(".nodes.sample").Scheduler, []
        for arguments in ((20, float("inf")), (True, 1.0), (2.5,)):
            try:
                refusals.append(len(scheduler.execute(*arguments)[0]))
            except ValueError as error:
                refusals.append(str(error))
        return [len(scheduler.execute(20)[0]), len(scheduler.execute(shift=3, steps=5)[0]), *refusals]

    seen = in_host(look)
    assert seen[:2] == [21, 6] and seen[3] == 2
    assert seen[2] == "shift is the number inf. It must be a number from 0.01 to 100.0."
    assert seen[4] == "steps is the number 2.5. It must be a whole number from 1 to 1000."
