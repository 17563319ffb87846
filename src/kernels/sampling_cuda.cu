// One block takes a row, in a few passes over it. Probabilities are the CPU's to the bit, sums of
// them are integers: they do not depend on the order of adding, so that a row gives the same token
// every time. What top_k and top_p leave is found by bisection over the bits of a probability,
// which are in the order of its values: "how many, or how much, is at least this?". A histogram of
// the upper bits first tells which tokens can matter; where they are few, they are kept in shared
// memory and bisection no longer reads the row.
#include <cstdint>

#include "base/cuda.h"
#include "base/random.h"
#include "kernels/cuda_math.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarp = 32;
constexpr int kWarps = 32;
constexpr int kThreads = kWarp * kWarps;
constexpr int kMaxCandidates = 4096;
constexpr uint32_t kOne = 0x3f800000U;  // bits of 1, the largest probability
constexpr int kBinShift = 20;           // a bin is an eighth of a power of two
static_assert(kOne >> kBinShift < kThreads, "a thread has a bin");

// In pinned memory of the host, where the kernel reads and writes it.
struct SampleRow {
  double share;  // of the sum of probabilities
  float scale;   // 1 / temperature; 0: greedy
  float top_p;
  int top_k;
  int token;
};

// Some tokens and the sum of their probabilities.
struct Mass {
  int64_t sum;  // in units of 2^-44: 2^18 tokens of probability 1 are 2^62
  int count;
};

__device__ Mass operator+(Mass a, Mass b) {
  return {a.sum + b.sum, a.count + b.count};
}

__device__ int64_t units(uint32_t bits) {
  return __float2ll_rn(__uint_as_float(bits) * 0x1p44F);
}

__device__ uint64_t from_lane(uint64_t value, int offset) {
  return __shfl_xor_sync(kAllLanes, value, offset);
}
__device__ Mass from_lane(Mass value, int offset) {
  return {__shfl_xor_sync(kAllLanes, value.sum, offset),
          __shfl_xor_sync(kAllLanes, value.count, offset)};
}

template <typename T, typename Combine>
__device__ T reduce_warp(T value, const Combine& combine) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, from_lane(value, offset));
  }
  return value;
}

// Of all threads' values, for all threads.
template <typename T, typename Combine>
__device__ T reduce_block(T value, const Combine& combine) {
  __shared__ T of_warp[kWarps];
  value = reduce_warp(value, combine);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = reduce_warp(of_warp[threadIdx.x % kWarp], combine);
  __syncthreads();
  return value;
}

__device__ Mass sum_block(Mass mass) {
  return reduce_block(mass, [](Mass a, Mass b) { return a + b; });
}
__device__ uint64_t max_block(uint64_t value) {
  return reduce_block(value, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

// A row of logits, or a range of it that begins at a multiple of 4, as probabilities.
struct Row {
  const float* logits;
  int begin;
  int end;
  float most;   // the largest finite logit: its probability is 1
  float scale;  // 1 / temperature
  // Of the threads that share the work.
  int thread = static_cast<int>(threadIdx.x);
  int num_threads = kThreads;

  // body(id, logit) for each token, by all these threads together.
  template <typename Body>
  __device__ void each_logit(const Body& body) const {
    int id = begin;
    if (reinterpret_cast<uintptr_t>(logits) % 16 == 0) {
#pragma unroll 4
      for (int i = begin + 4 * thread; i + 4 <= end; i += 4 * num_threads) {
        const float4 v = *reinterpret_cast<const float4*>(logits + i);
        body(i, v.x);
        body(i + 1, v.y);
        body(i + 2, v.z);
        body(i + 3, v.w);
      }
      id = max(begin, end / 4 * 4);
    }
    for (id += thread; id < end; id += num_threads) body(id, logits[id]);
  }
  // body(id, bits of the probability) for each token that has one.
  template <typename Body>
  __device__ void each(const Body& body) const {
    each_logit([&](int id, float logit) {
      if (!(fabsf(logit) < INFINITY)) return;
      const float p = portable_exp(__fmul_rn(__fsub_rn(logit, most), scale));
      if (p > 0) body(id, __float_as_uint(p));
    });
  }
};

// The tokens of a row that can be chosen, in any order.
struct Candidates {
  const int* ids;
  const uint32_t* bits;
  int count;

  template <typename Body>
  __device__ void each(const Body& body) const {
    for (int i = threadIdx.x; i < count; i += kThreads) body(ids[i], bits[i]);
  }
};

// The mass of the tokens for which predicate(id, bits).
template <typename Tokens, typename Predicate>
__device__ Mass measure(const Tokens& tokens, const Predicate& predicate) {
  Mass mass = {};
  tokens.each([&](int id, uint32_t bits) {
    if (predicate(id, bits)) mass = mass + Mass{units(bits), 1};
  });
  return sum_block(mass);
}
template <typename Tokens>
__device__ Mass mass_from(const Tokens& tokens, uint32_t threshold) {
  return measure(tokens, [&](int, uint32_t bits) { return bits >= threshold; });
}

// The largest in [low, high] for which is_enough() holds, which is true up to some point; `low`
// where it never is.
template <typename IsEnough>
__device__ uint32_t largest_that(uint32_t low, uint32_t high, const IsEnough& is_enough) {
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (is_enough(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The first tokens in descending order of probability, ties in ascending order of ids: all with
// more than `bits`, and the first `ties` of those that have just that.
struct Prefix {
  uint32_t bits;
  int ties;
  Mass above;  // all with more

  __device__ int64_t sum() const { return above.sum + ties * units(bits); }
};

// The whole prefix that ends with this probability.
template <typename Tokens>
__device__ Prefix prefix_to(const Tokens& tokens, uint32_t bits) {
  const Mass above = mass_from(tokens, bits + 1);
  return {bits, mass_from(tokens, bits).count - above.count, above};
}

// Not all of the ties: as many as are needed, at least 1.
__device__ Prefix shortened(Prefix prefix, double needed) {
  if (needed < prefix.ties) prefix.ties = max(static_cast<int>(needed), 1);
  return prefix;
}

// No longer than `all`, and than it takes to reach `goal`, or to exceed it.
template <bool kExceed, typename Tokens>
__device__ Prefix prefix_of_sum(const Tokens& tokens, const Prefix& all, double goal) {
  const uint32_t bits = largest_that(all.bits, kOne, [&](uint32_t threshold) {
    const auto sum = static_cast<double>(mass_from(tokens, threshold).sum);
    return kExceed ? sum > goal : sum >= goal;
  });
  const Prefix prefix = bits == all.bits ? all : prefix_to(tokens, bits);
  const double ties =
      (goal - static_cast<double>(prefix.above.sum)) / static_cast<double>(units(bits));
  return shortened(prefix, kExceed ? floor(ties) + 1 : ceil(ties));
}

// The count-th token, by id, of those with this probability.
template <typename Tokens>
__device__ int id_of_tie(const Tokens& tokens, int vocab, uint32_t threshold, int count) {
  const auto before = largest_that(0, static_cast<uint32_t>(vocab - 1), [&](uint32_t limit) {
    const Mass mass = measure(
        tokens, [&](uint32_t id, uint32_t bits) { return bits == threshold && id < limit; });
    return mass.count < count;
  });
  return static_cast<int>(before);
}

struct Filters {
  double share;
  float top_p;
  int top_k;
  uint32_t bound;  // no token of less probability is left by them
  Mass total;      // of all tokens
};

template <typename Tokens>
__device__ int pick_of_prefix(const Tokens& tokens, int vocab, const Filters& f) {
  uint32_t bits = f.bound;
  if (f.top_k > 0) {
    bits = largest_that(f.bound, kOne, [&](uint32_t threshold) {
      return mass_from(tokens, threshold).count >= f.top_k;
    });
  }
  Prefix left = prefix_to(tokens, bits);
  if (f.top_k > 0) left = shortened(left, f.top_k - left.above.count);
  if (f.top_p < 1) {
    const int64_t all = f.top_k > 0 ? left.sum() : f.total.sum;
    left =
        prefix_of_sum<false>(tokens, left, static_cast<double>(f.top_p) * static_cast<double>(all));
  }
  const Prefix chosen =
      prefix_of_sum<true>(tokens, left, f.share * static_cast<double>(left.sum()));
  return id_of_tie(tokens, vocab, chosen.bits, chosen.ties);
}

// Tokens per bin, for the bins at and above which top_k or top_p leave all that they leave.
__device__ Filters count_bins(const Row& row, const SampleRow& request, int* bins) {
  bins[threadIdx.x] = 0;
  __syncthreads();
  Mass mass = {};
  row.each([&](int, uint32_t bits) {
    atomicAdd(&bins[bits >> kBinShift], 1);
    mass = mass + Mass{units(bits), 1};
  });
  const Mass total = sum_block(mass);
  const int own = bins[threadIdx.x];
  const Mass least = {own * units(threadIdx.x << kBinShift), own};
  const double goal = static_cast<double>(request.top_p) * static_cast<double>(total.sum);
  const uint32_t bin = largest_that(0, kOne >> kBinShift, [&](uint32_t first) {
    const Mass from = sum_block(threadIdx.x >= first ? least : Mass{});
    return request.top_k > 0 ? from.count >= request.top_k : static_cast<double>(from.sum) >= goal;
  });
  return {request.share, request.top_p, request.top_k, max(bin << kBinShift, 1U), total};
}

__device__ int pick_filtered(const Row& row, const SampleRow& request) {
  __shared__ int bins[kThreads];
  __shared__ int ids[kMaxCandidates];
  __shared__ uint32_t bits_of[kMaxCandidates];
  __shared__ int count;
  const Filters filters = count_bins(row, request, bins);
  if (threadIdx.x == 0) count = 0;
  const Mass own = {0, threadIdx.x >= filters.bound >> kBinShift ? bins[threadIdx.x] : 0};
  if (sum_block(own).count > kMaxCandidates) return pick_of_prefix(row, row.end, filters);
  row.each([&](int id, uint32_t bits) {
    if (bits < filters.bound) return;
    const int place = atomicAdd(&count, 1);
    ids[place] = id;
    bits_of[place] = bits;
  });
  __syncthreads();
  return pick_of_prefix(Candidates{ids, bits_of, count}, row.end, filters);
}

// Of all tokens, by id: first the part of the row that has it, of as many parts as warps.
__device__ int pick_any(const Row& row, double share) {
  __shared__ int64_t sums[kWarps];
  const int part_size = (row.end + 4 * kWarps - 1) / (4 * kWarps) * 4;
  const auto part = [&](int i) {
    Row result = row;
    result.begin = min(i * part_size, row.end);
    result.end = min(result.begin + part_size, row.end);
    return result;
  };
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Row of_warp = part(warp);
  of_warp.thread = static_cast<int>(threadIdx.x) % kWarp;
  of_warp.num_threads = kWarp;
  Mass mass = {};
  of_warp.each([&](int, uint32_t bits) { mass = mass + Mass{units(bits), 1}; });
  mass = reduce_warp(mass, [](Mass a, Mass b) { return a + b; });
  if (of_warp.thread == 0) sums[warp] = mass.sum;
  __syncthreads();
  int64_t total = 0;
  for (const int64_t sum : sums) total += sum;
  // Below the total, whatever rounding makes of the product.
  const auto limit = static_cast<double>(total);
  const double goal = fmin(share * limit, nextafter(limit, 0.0));
  int64_t before = 0;
  int chosen = 0;
  while (static_cast<double>(before + sums[chosen]) <= goal) before += sums[chosen++];
  const Row own = part(chosen);
  // The last id before which there is no more than the goal: it has what exceeds it.
  return static_cast<int>(largest_that(own.begin, own.end - 1, [&](uint32_t id) {
    const Mass below = measure(own, [&](uint32_t other, uint32_t) { return other < id; });
    return static_cast<double>(before + below.sum) <= goal;
  }));
}

// The largest finite logit, ties to the smaller id; -1 for none.
__device__ int pick_largest(const Row& row) {
  uint64_t best = 0;
  row.each_logit([&](int id, float logit) {
    const uint64_t key = static_cast<uint64_t>(ordered(logit)) << 32 | ~static_cast<uint32_t>(id);
    if (fabsf(logit) < INFINITY && key > best) best = key;
  });
  best = max_block(best);
  return best == 0 ? -1 : static_cast<int>(~static_cast<uint32_t>(best));
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(Rows<const float> logits, int vocab, SampleRow* requests, int* tokens) {
  follow_previous_kernel();
  __shared__ SampleRow request;
  if (threadIdx.x == 0) request = requests[blockIdx.x];
  __syncthreads();
  Row row = {logits.at(blockIdx.x, 0), 0, vocab, 0, request.scale};
  int token = pick_largest(row);
  if (token >= 0 && request.scale >= 0) {
    row.most = row.logits[token];
    const bool is_filtered = request.top_k > 0 || request.top_p < 1;
    token = is_filtered ? pick_filtered(row, request) : pick_any(row, request.share);
  }
  if (threadIdx.x == 0) requests[blockIdx.x].token = tokens[blockIdx.x] = token;
}

__global__ void take_sampled_kernel(const int* sampled, int* ids, int count) {
  follow_previous_kernel();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count && ids[i] < 0) ids[i] = max(sampled[-1 - ids[i]], 0);
}

SampleRow row_of(const SampleRequest& request) {
  const SamplingParams& sampling = request.sampling;
  const auto position = static_cast<uint64_t>(request.position);
  return {.share = Random(sampling.seed, {position}).uniform(),
          .scale = sampling.temperature <= 0 ? -1 : inverse_of_temperature(sampling.temperature),
          .top_p = sampling.top_p,
          .top_k = sampling.top_k,
          .token = -1};
}

class CudaSampler : public Sampler {
 public:
  ~CudaSampler() override {
    for (Batch& batch : batches_) cudaEventDestroy(batch.done);
  }

  Status allocate(int64_t max_rows) {
    ASSIGN_OR_RETURN(tokens_, device_buffer(max_rows * static_cast<int64_t>(sizeof(int))));
    for (Batch& batch : batches_) {
      ASSIGN_OR_RETURN(batch.rows,
                       pinned_buffer(max_rows * static_cast<int64_t>(sizeof(SampleRow))));
      RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&batch.done, cudaEventDisableTiming));
    }
    return Status::ok();
  }

  void start(Stream& stream, ConstMatrixView logits,
             std::span<const SampleRequest> requests) override {
    CHECK(logits.rows == static_cast<int64_t>(requests.size()));
    CHECK(logits.columns < int64_t{1} << 18);
    CHECK(started_ - taken_ < kMaxBatches);
    Batch& batch = batches_[started_++ % kMaxBatches];
    batch.count = logits.rows;
    if (batch.count == 0) return;
    const std::span<SampleRow> rows = batch.rows.span<SampleRow>(batch.count);
    for (int64_t r = 0; r < batch.count; ++r) rows[r] = row_of(requests[r]);
    launch_kernel(stream, {static_cast<unsigned>(batch.count), kThreads}, sample_kernel,
                  rows_of<float>(logits), static_cast<int>(logits.columns), rows.data(),
                  tokens_.as<int>());
    check_launch(stream, "sample");
    cudaEventRecord(batch.done, stream_of(stream));
  }

  void take(Stream& stream, std::span<int> tokens) override {
    CHECK(taken_ < started_);
    Batch& batch = batches_[taken_++ % kMaxBatches];
    CHECK(batch.count == static_cast<int64_t>(tokens.size()));
    if (batch.count == 0) return;
    const Status status = cuda_status("sample", cudaEventSynchronize(batch.done));
    if (!status.is_ok()) stream.fail(status);
    const std::span<SampleRow> rows = batch.rows.span<SampleRow>(batch.count);
    for (int64_t r = 0; r < batch.count; ++r) tokens[r] = rows[r].token;
  }

  const int* tokens() const override { return tokens_.as<int>(); }

 private:
  struct Batch {
    Buffer rows;  // [max_rows] SampleRow, pinned
    cudaEvent_t done = nullptr;
    int64_t count = 0;
  };

  Buffer tokens_;  // [max_rows] int
  Batch batches_[kMaxBatches];
  int64_t started_ = 0;
  int64_t taken_ = 0;
};

}  // namespace

Result<std::unique_ptr<Sampler>> make_sampler(int64_t max_rows) {
  auto sampler = std::make_unique<CudaSampler>();
  RETURN_IF_ERROR(sampler->allocate(max_rows));
  return std::unique_ptr<Sampler>(std::move(sampler));
}

void take_sampled(Stream& stream, const int* sampled, std::span<int> ids) {
  if (ids.empty()) return;
  constexpr unsigned kIdThreads = 256;
  const auto count = static_cast<unsigned>(ids.size());
  launch_kernel(stream, {(count + kIdThreads - 1) / kIdThreads, kIdThreads}, take_sampled_kernel,
                sampled, ids.data(), static_cast<int>(count));
  check_launch(stream, "take_sampled");
}

}  // namespace wideep::kernels::cuda
