#include "dist/local_ops.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "dist/reduce.h"

namespace wideep::dist {

namespace {

using Calls = std::span<const Call>;

// Copies unless `to` is `from` itself, which is how ranks pass their own place in a result.
void copy(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

template <typename T>
T* at(std::span<std::byte> data, int64_t element) {
  return reinterpret_cast<T*>(data.data()) + element;
}

template <typename T>
const T* at(std::span<const std::byte> data, int64_t element) {
  return reinterpret_cast<const T*>(data.data()) + element;
}

// Calls body(rank, first, last) for the part of [begin, end) that lies in each rank's run of
// size_of(rank) units; first and last count from the run's begin.
template <typename SizeOf, typename Body>
void for_runs(int size, int64_t begin, int64_t end, const SizeOf& size_of, const Body& body) {
  int64_t start = 0;
  for (int r = 0; r < size && start < end; ++r) {
    const int64_t stop = start + size_of(r);
    const int64_t first = std::max(begin, start);
    const int64_t last = std::min(end, stop);
    if (first < last) body(r, first - start, last - start);
    start = stop;
  }
}

void do_broadcast(Calls calls, int64_t begin, int64_t end) {
  const std::byte* from = calls[calls[0].root].out.data() + begin;
  for (const Call& call : calls) copy(call.out.data() + begin, from, end - begin);
}

// all_gather and all_gather_v: units are bytes of the result.
void do_all_gather(Calls calls, int64_t begin, int64_t end) {
  const auto size_of = [&](int r) { return static_cast<int64_t>(calls[r].in.size()); };
  int64_t out = begin;
  for_runs(static_cast<int>(calls.size()), begin, end, size_of,
           [&](int r, int64_t first, int64_t last) {
             for (const Call& call : calls) {
               copy(call.out.data() + out, calls[r].in.data() + first, last - first);
             }
             out += last - first;
           });
}

template <typename T, typename Combine>
void do_all_reduce(Calls calls, int64_t begin, int64_t end) {
  reduce<T>(
      static_cast<int>(calls.size()), end - begin, Combine{},
      [&](int r) { return at<T>(calls[r].out, begin); },
      [&](int64_t offset, const T* values, int64_t length) {
        for (const Call& call : calls) {
          std::memcpy(at<T>(call.out, begin + offset), values, length * sizeof(T));
        }
      });
}

// Units are elements of the sum.
void do_reduce_scatter(Calls calls, int64_t begin, int64_t end) {
  int64_t element = begin;
  for_runs(
      static_cast<int>(calls.size()), begin, end, [&](int r) { return calls[0].counts[r]; },
      [&](int owner, int64_t first, int64_t last) {
        reduce<float>(
            static_cast<int>(calls.size()), last - first, Sum{},
            [&](int r) { return at<float>(calls[r].in, element); },
            [&](int64_t offset, const float* values, int64_t length) {
              std::memcpy(at<float>(calls[owner].out, first + offset), values,
                          length * sizeof(float));
            });
        element += last - first;
      });
}

// Units are receiving ranks.
void do_all_to_all(Calls calls, int64_t begin, int64_t end) {
  for (int64_t to = begin; to < end; ++to) {
    int64_t out = 0;
    for (size_t from = 0; from < calls.size(); ++from) {
      const int64_t in = sum_of(calls[from].counts.first(to));
      const int64_t bytes = calls[from].counts[to];
      copy(calls[to].out.data() + out, calls[from].in.data() + in, bytes);
      out += bytes;
    }
  }
}

}  // namespace

Work work_of(Calls calls) {
  const auto size = static_cast<int64_t>(calls.size());
  const auto out_bytes = static_cast<int64_t>(calls[0].out.size());
  switch (calls[0].op) {
    case Op::kBarrier:
    case Op::kSplit:
    case Op::kEnd:
      return {};
    case Op::kBroadcast:
    case Op::kAllGather:
    case Op::kAllGatherV:
      return {.units = out_bytes, .bytes = out_bytes * (size + 1)};
    case Op::kAllReduceSumFloat:
      return {.units = out_bytes / static_cast<int64_t>(sizeof(float)),
              .bytes = out_bytes * 2 * size};
    case Op::kAllReduceSumInt64:
    case Op::kAllReduceMaxInt64:
      return {.units = out_bytes / static_cast<int64_t>(sizeof(int64_t)),
              .bytes = out_bytes * 2 * size};
    case Op::kReduceScatterV: {
      const auto in_bytes = static_cast<int64_t>(calls[0].in.size());
      return {.units = in_bytes / static_cast<int64_t>(sizeof(float)),
              .bytes = in_bytes * (size + 1)};
    }
    case Op::kAllToAllV: {
      int64_t bytes = 0;
      for (const Call& call : calls) bytes += static_cast<int64_t>(2 * call.out.size());
      return {.units = bytes == 0 ? 0 : size, .bytes = bytes};
    }
  }
  return {};
}

void do_work(Calls calls, int64_t begin, int64_t end) {
  switch (calls[0].op) {
    case Op::kBarrier:
    case Op::kSplit:
    case Op::kEnd:
      return;
    case Op::kBroadcast:
      return do_broadcast(calls, begin, end);
    case Op::kAllGather:
    case Op::kAllGatherV:
      return do_all_gather(calls, begin, end);
    case Op::kAllReduceSumFloat:
      return do_all_reduce<float, Sum>(calls, begin, end);
    case Op::kAllReduceSumInt64:
      return do_all_reduce<int64_t, Sum>(calls, begin, end);
    case Op::kAllReduceMaxInt64:
      return do_all_reduce<int64_t, Max>(calls, begin, end);
    case Op::kReduceScatterV:
      return do_reduce_scatter(calls, begin, end);
    case Op::kAllToAllV:
      return do_all_to_all(calls, begin, end);
  }
}

}  // namespace wideep::dist
