// Starting on GPUs what waits there for other ranks.
#pragma once

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::dist {

// A collective: launch() puts kernels on a stream, or a graph of them, that wait for those of the
// group's other ranks. Where ranks are threads of one process it is called when all have come here,
// and they go on when all have called it. Without that they wait for each other for ever: a library
// that loads one of its kernels waits until the GPUs of the process are idle and lets nobody launch
// meanwhile; a GPU whose rank launched earlier waits for the rank that cannot.
template <typename Launch>
Status launch_together(Communicator& group, const Launch& launch) {
  if (!group.shares_memory() || group.size() == 1) return launch();
  RETURN_IF_ERROR(group.barrier());
  RETURN_IF_ERROR(launch());
  return group.barrier();
}

}  // namespace wideep::dist
