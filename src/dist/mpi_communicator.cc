#include "dist/mpi_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "dist/local_ops.h"
#include "dist/reduce.h"

namespace wideep::dist {

namespace {

// Collectives use tag 0; a message's tag is one more than its caller's.
constexpr int kCollectiveTag = 0;

// Below, one exchange of whole vectors is faster than two of slices. Bytes of all ranks.
constexpr int64_t kGatherReduceBytes = 1 << 17;

}  // namespace

MpiCommunicator::MpiCommunicator(MpiJob& job, MPI_Comm comm, std::vector<int> world_ranks)
    : job_(job),
      comm_(comm),
      world_ranks_(std::move(world_ranks)),
      headers_(world_ranks_.size()),
      records_(world_ranks_.size()) {
  MPI_Comm_rank(comm_, &rank_);
}

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Comm_free(&comm_);
}

Status MpiCommunicator::exchange() {
  const int64_t piece = job_.options().largest_message_bytes;
  requests_.clear();
  const auto post = [&](auto data, const auto& call) -> Status {
    for (size_t begin = 0; begin < data.size(); begin += piece) {
      const auto part = data.subspan(begin, std::min<size_t>(piece, data.size() - begin));
      requests_.push_back(MPI_REQUEST_NULL);
      RETURN_IF_ERROR(mpi_status(call(part, &requests_.back()), "MPI transfer"));
    }
    return {};
  };
  for (const Incoming& in : receives_) {
    RETURN_IF_ERROR(post(in.data, [&](std::span<std::byte> part, MPI_Request* request) {
      return MPI_Irecv(part.data(), static_cast<int>(part.size()), MPI_BYTE, in.peer,
                       kCollectiveTag, comm_, request);
    }));
  }
  const int num_receives = static_cast<int>(requests_.size());
  for (const Outgoing& out : sends_) {
    RETURN_IF_ERROR(post(out.data, [&](std::span<const std::byte> part, MPI_Request* request) {
      return MPI_Isend(part.data(), static_cast<int>(part.size()), MPI_BYTE, out.peer,
                       kCollectiveTag, comm_, request);
    }));
  }
  receives_.clear();
  sends_.clear();
  return job_.wait(requests_, num_receives);
}

template <typename Place>
Status MpiCommunicator::exchange_with_all(std::span<const std::byte> own, const Place& place) {
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    receives_.push_back({r, place(r)});
    sends_.push_back({r, own});
  }
  return exchange();
}

Status MpiCommunicator::gather_calls(const Call& call) {
  headers_[rank_] = header_of(call);
  RETURN_IF_ERROR(exchange_with_all(std::as_bytes(std::span(&headers_[rank_], 1)), [&](int r) {
    return std::as_writable_bytes(std::span(&headers_[r], 1));
  }));
  for (int r = 0; r < size(); ++r) records_[r] = {headers_[r], call.counts, call.recv_counts};
  RETURN_IF_ERROR(check_same_call(records_, world_ranks_));
  // All ranks see the same hashes, so all take part or none.
  const bool same_counts = std::all_of(headers_.begin(), headers_.end(), [&](const CallHeader& h) {
    return h.counts_hash == headers_[0].counts_hash;
  });
  if (call.op == Op::kAllToAllV || !same_counts) RETURN_IF_ERROR(gather_counts(call));
  return check_sizes(records_, world_ranks_);
}

Status MpiCommunicator::gather_counts(const Call& call) {
  const int n = size();
  counts_.assign(2 * n * n, 0);
  const auto row = [&](int r) { return std::span(counts_).subspan(2 * n * r, 2 * n); };
  std::copy(call.counts.begin(), call.counts.end(), row(rank_).begin());
  std::copy(call.recv_counts.begin(), call.recv_counts.end(), row(rank_).begin() + n);
  RETURN_IF_ERROR(exchange_with_all(std::as_bytes(row(rank_)),
                                    [&](int r) { return std::as_writable_bytes(row(r)); }));
  for (int r = 0; r < n; ++r) {
    records_[r].counts = row(r).first(n);
    records_[r].recv_counts = row(r).last(n);
  }
  return {};
}

Status MpiCommunicator::collective(const Call& call) {
  if (size() == 1) {
    // Without this, a rank alone would not hear of failures in other groups.
    RETURN_IF_ERROR(job_.check_notices());
    RETURN_IF_ERROR(gather_calls(call));
    const std::span<const Call> calls(&call, 1);
    do_work(calls, 0, work_of(calls).units);
    return {};
  }
  RETURN_IF_ERROR(gather_calls(call));
  return move(call);
}

Status MpiCommunicator::move(const Call& call) {
  switch (call.op) {
    case Op::kBarrier:
    case Op::kSplit:
    case Op::kEnd:
      return {};
    case Op::kBroadcast:
      return broadcast_data(call);
    case Op::kAllGather:
    case Op::kAllGatherV:
      return all_gather_data(call);
    case Op::kAllReduceSumFloat:
      return all_reduce_data<float, Sum>(call.out);
    case Op::kAllReduceSumInt64:
      return all_reduce_data<int64_t, Sum>(call.out);
    case Op::kAllReduceMaxInt64:
      return all_reduce_data<int64_t, Max>(call.out);
    case Op::kReduceScatterV:
      return reduce_scatter_data(call);
    case Op::kAllToAllV:
      return all_to_all_data(call);
  }
  return {};
}

Status MpiCommunicator::broadcast_data(const Call& call) {
  if (rank_ != call.root) {
    receives_.push_back({call.root, call.out});
    return exchange();
  }
  for (int r = 0; r < size(); ++r) {
    if (r != rank_) sends_.push_back({r, call.out});
  }
  return exchange();
}

Status MpiCommunicator::all_gather_data(const Call& call) {
  std::vector<int64_t> begin(size() + 1, 0);
  for (int r = 0; r < size(); ++r) begin[r + 1] = begin[r] + records_[r].header.in_bytes;
  const auto place = [&](int r) { return call.out.subspan(begin[r], begin[r + 1] - begin[r]); };
  const std::span<std::byte> own = place(rank_);
  if (!own.empty() && own.data() != call.in.data()) {
    std::memcpy(own.data(), call.in.data(), own.size());
  }
  return exchange_with_all(call.in, place);
}

template <typename T, typename Combine>
Status MpiCommunicator::all_reduce_data(std::span<std::byte> data) {
  const auto n = static_cast<int64_t>(data.size() / sizeof(T));
  if (static_cast<int64_t>(data.size()) * size() <= kGatherReduceBytes) {
    scratch_.resize(data.size() * size());
    const auto place = [&](int r) {
      return r == rank_ ? data : std::span(scratch_).subspan(data.size() * r, data.size());
    };
    RETURN_IF_ERROR(exchange_with_all(data, place));
    reduce<T>(
        size(), n, Combine{}, [&](int r) { return reinterpret_cast<const T*>(place(r).data()); },
        [&](int64_t offset, const T* values, int64_t length) {
          std::memcpy(data.data() + offset * sizeof(T), values, length * sizeof(T));
        });
    return {};
  }
  std::vector<int64_t> begin(size() + 1);
  for (int r = 0; r <= size(); ++r) begin[r] = n * r / size();
  const auto slice = [&](int r) {
    return data.subspan(begin[r] * sizeof(T), (begin[r + 1] - begin[r]) * sizeof(T));
  };
  RETURN_IF_ERROR((reduce_slices<T, Combine>(data, begin, slice(rank_))));
  return exchange_with_all(slice(rank_), slice);
}

template <typename T, typename Combine>
Status MpiCommunicator::reduce_slices(std::span<const std::byte> in, std::span<const int64_t> begin,
                                      std::span<std::byte> out) {
  const auto slice = [&](int r) {
    return in.subspan(begin[r] * sizeof(T), (begin[r + 1] - begin[r]) * sizeof(T));
  };
  scratch_.resize(out.size() * size());
  const auto place = [&](int r) { return std::span(scratch_).subspan(out.size() * r, out.size()); };
  for (int r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    receives_.push_back({r, place(r)});
    sends_.push_back({r, slice(r)});
  }
  RETURN_IF_ERROR(exchange());
  const auto input = [&](int r) {
    return reinterpret_cast<const T*>(r == rank_ ? slice(r).data() : place(r).data());
  };
  reduce<T>(size(), static_cast<int64_t>(out.size() / sizeof(T)), Combine{}, input,
            [&](int64_t offset, const T* values, int64_t length) {
              std::memcpy(out.data() + offset * sizeof(T), values, length * sizeof(T));
            });
  return {};
}

Status MpiCommunicator::reduce_scatter_data(const Call& call) {
  std::vector<int64_t> begin(size() + 1, 0);
  for (int r = 0; r < size(); ++r) begin[r + 1] = begin[r] + call.counts[r];
  return reduce_slices<float, Sum>(call.in, begin, call.out);
}

Status MpiCommunicator::all_to_all_data(const Call& call) {
  int64_t in = 0;
  int64_t out = 0;
  for (int r = 0; r < size(); ++r) {
    const auto sent = call.in.subspan(in, call.counts[r]);
    const auto received = call.out.subspan(out, call.recv_counts[r]);
    in += call.counts[r];
    out += call.recv_counts[r];
    if (r == rank_) {
      if (!sent.empty()) std::memcpy(received.data(), sent.data(), sent.size());
    } else {
      receives_.push_back({r, received});
      sends_.push_back({r, sent});
    }
  }
  return exchange();
}

// A message goes as pieces of the largest size and a shorter one, perhaps empty, that ends it: the
// receiver need not know its size to find its end.
Status MpiCommunicator::do_send(std::span<const std::byte> data, int peer, int tag) {
  RETURN_IF_ERROR(job_.check_notices());
  const size_t piece = job_.options().largest_message_bytes;
  for (size_t begin = 0; begin <= data.size(); begin += piece) {
    const auto part = data.subspan(begin, std::min(piece, data.size() - begin));
    auto copy = std::make_unique_for_overwrite<std::byte[]>(part.size());
    if (!part.empty()) std::memcpy(copy.get(), part.data(), part.size());
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(mpi_status(MPI_Isend(copy.get(), static_cast<int>(part.size()), MPI_BYTE, peer,
                                         tag + 1, comm_, &request),
                               "MPI_Isend"));
    job_.keep(request, std::move(copy));
  }
  return {};
}

Status MpiCommunicator::do_recv(std::span<std::byte> data, int peer, int tag) {
  const size_t piece = job_.options().largest_message_bytes;
  size_t received = 0;
  for (size_t part = piece; part == piece; received += part) {
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status probe;
    int arrived = 0;
    for (Backoff backoff(job_.options());; backoff.pause()) {
      RETURN_IF_ERROR(
          mpi_status(MPI_Improbe(peer, tag + 1, comm_, &arrived, &message, &probe), "MPI_Improbe"));
      if (arrived != 0) break;
      RETURN_IF_ERROR(job_.check_notices());
    }
    int bytes = 0;
    MPI_Get_count(&probe, MPI_BYTE, &bytes);
    part = bytes;
    // What does not fit is taken all the same, so that the next message is not mistaken for it.
    const bool fits = received + part <= data.size();
    if (!fits) scratch_.resize(std::max(scratch_.size(), part));
    std::byte* to = fits ? data.data() + received : scratch_.data();
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(mpi_status(MPI_Imrecv(to, bytes, MPI_BYTE, &message, &request), "MPI_Imrecv"));
    RETURN_IF_ERROR(job_.wait({&request, 1}, 1));
  }
  return check_message_size(world_ranks_[rank_], data.size(), world_ranks_[peer], received, tag);
}

Result<bool> MpiCommunicator::try_recv(int peer, int tag) {
  RETURN_IF_ERROR(job_.check_notices());
  MPI_Message message = MPI_MESSAGE_NULL;
  int arrived = 0;
  RETURN_IF_ERROR(mpi_status(
      MPI_Improbe(peer, tag + 1, comm_, &arrived, &message, MPI_STATUS_IGNORE), "MPI_Improbe"));
  if (arrived == 0) return false;
  RETURN_IF_ERROR(
      mpi_status(MPI_Mrecv(nullptr, 0, MPI_BYTE, &message, MPI_STATUS_IGNORE), "MPI_Mrecv"));
  return true;
}

Result<std::unique_ptr<Communicator>> MpiCommunicator::do_split(int color, int key) {
  RETURN_IF_ERROR(collective({.op = Op::kSplit, .color = color, .key = key}));
  std::vector<int> world_ranks;
  for (const int member : ranks_of_color(records_, color)) {
    world_ranks.push_back(world_ranks_[member]);
  }
  MPI_Comm part = MPI_COMM_NULL;
  // Does not wait in vain: every rank has just been seen to make this call.
  RETURN_IF_ERROR(mpi_status(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &part),
                             "MPI_Comm_split"));
  if (part == MPI_COMM_NULL) return std::unique_ptr<Communicator>();
  return std::unique_ptr<Communicator>(
      std::make_unique<MpiCommunicator>(job_, part, std::move(world_ranks)));
}

}  // namespace wideep::dist
