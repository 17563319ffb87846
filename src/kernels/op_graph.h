// Ops of a CUDA stream, recorded once and then started all at once: what a decode step costs the
// host.
#pragma once

#include <functional>
#include <memory>

#include "base/status.h"
#include "base/stream.h"

namespace wideep::kernels {

class OpGraph {
 public:
  // Records what `body` puts on the stream, and runs nothing of it. body must not wait for the
  // stream, and what it did once before needs no memory now. The buffers of its ops stay where they
  // are for as long as the graph is used.
  static Result<std::unique_ptr<OpGraph>> capture(Stream& stream,
                                                  const std::function<Status()>& body);
  virtual ~OpGraph() = default;
  virtual void replay(Stream& stream) = 0;

 protected:
  OpGraph() = default;
};

}  // namespace wideep::kernels
