// Communicator: a group of ranks that exchange data in host memory. The front door for every layer
// above; it is the same for the threads of a local world and for the processes of an MPI world.
//
// All ranks of a group must make the same calls in the same order, each from one thread at a time.
// Ranks that do not (another op, sizes that do not fit) all get an error that names two ranks and
// what each passed, and no data moves. In a local world, ranks that wait for each other for ever
// get an error too. Where a rank of the world fails, every wait of the others ends with kAborted
// naming that rank and its message.
//
// Float sums are made in fp32 in the order of the ranks, ((x0 + x1) + x2) + ..., on every
// transport: the bits are the same on all ranks, in every run, and in local and MPI worlds.
//
// Buffers of one call must not overlap, except that `in` of all_gather and all_gather_v may be this
// rank's own place in `out`. A zero size is a size like any other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "dist/call.h"

namespace wideep::dist {

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;  // in this group, from 0
  virtual int size() const = 0;
  // The world's numbers of this group's ranks, [size].
  virtual std::span<const int> world_ranks() const = 0;
  // Whether all ranks are threads of this process, so that one may read another's memory.
  virtual bool shares_memory() const = 0;

  Status barrier();

  // `data` of root to `data` of every rank; all of the same size.
  Status broadcast(std::span<std::byte> data, int root);

  // out: the `in` of rank 0, 1, ...; all of the same size.
  Status all_gather(std::span<const std::byte> in, std::span<std::byte> out);

  // The same where rank r gives counts[r] bytes; all ranks pass the same counts.
  Status all_gather_v(std::span<const std::byte> in, std::span<const int64_t> counts,
                      std::span<std::byte> out);

  // In place, element by element. Integer sums wrap.
  Status all_reduce_sum(std::span<float> data);
  Status all_reduce_sum(std::span<int64_t> data);
  Status all_reduce_max(std::span<int64_t> data);

  // Rank r gets elements [counts[0] + ... + counts[r - 1], ... + counts[r]) of the sum of all `in`.
  Status reduce_scatter_v(std::span<const float> in, std::span<const int64_t> counts,
                          std::span<float> out);

  // `in` holds send_counts[r] bytes for each rank r in order, `out` gets recv_counts[r] from each.
  Status all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> recv_counts);

  // Messages between two ranks of the group; those of one sender and tag arrive in order. `send`
  // copies and does not wait for the receiver. `recv` waits, and fails where the message has
  // another size than `data`. tag in [0, 2^30).
  Status send(std::span<const std::byte> data, int peer, int tag);
  Status recv(std::span<std::byte> data, int peer, int tag);

  // For the destructors of what ranks share: waits until all ranks of the group have called it.
  // False where one does not within kLeaveSeconds, or a rank has failed; the first may be this one,
  // on its way out with an error that nobody has heard of yet. From then on it is false at once.
  // What only all ranks together can end has to be dropped then.
  bool leave();
  static constexpr int kLeaveSeconds = 5;

  // A collective: the ranks with equal `color` >= 0 become a group, in the order of `key`, then of
  // their ranks here. Null for color -1. A group may live longer than the one it came from.
  Result<std::unique_ptr<Communicator>> split(int color, int key);

 protected:
  Communicator() = default;

 private:
  virtual Status collective(const Call& call) = 0;
  virtual Status do_send(std::span<const std::byte> data, int peer, int tag) = 0;
  virtual Status do_recv(std::span<std::byte> data, int peer, int tag) = 0;
  // Takes a message of no bytes where it has come; does not wait.
  virtual Result<bool> try_recv(int peer, int tag) = 0;
  virtual Result<std::unique_ptr<Communicator>> do_split(int color, int key) = 0;

  Status check_peer(const char* what, int peer, int tag) const;
  Result<bool> wait_for_leavers();

  bool is_left_behind_ = false;  // by leave()
};

}  // namespace wideep::dist
