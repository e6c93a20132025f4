package proxy

// SetPressure makes the engine believe that percent of its memory is in use.
func (e *Engine) SetPressure(percent int32) { e.overload.pressure.Store(percent) }
