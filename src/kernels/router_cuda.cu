// A warp takes a token; a lane has every 32nd expert. What is chosen by is compared as integers,
// with the warp's reductions.
#include "kernels/cuda_math.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/cuda_rows.cuh"
#include "kernels/launch.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarpsPerBlock = 4;

struct Router {
  Rows<const float> logits;
  const float* bias;
  int32_t* ids;
  float* weights;
  const int* num_tokens;  // in use, or null
  int64_t num_rows;
  int num_experts;
  RouterScoring scoring;
  int top_k;
  int n_group;
  int topk_group;
  bool normalize;
  float scaling;
};

__device__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

// The largest of the lanes' keys, kCount each, entry i * 32 + lane; ties to the smaller entry. Its
// key becomes 0, which no other key may be. Returned to all lanes.
template <int kCount>
__device__ int take_largest(uint32_t (&keys)[kCount]) {
  uint32_t key = 0;
  int entry = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (keys[i] > key) {
      key = keys[i];
      entry = i * kWarp + lane_id();
    }
  }
  const uint32_t largest = __reduce_max_sync(kAllLanes, key);
  const auto taken = static_cast<int>(
      __reduce_min_sync(kAllLanes, key == largest ? static_cast<unsigned>(entry) : ~0U));
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i * kWarp + lane_id() == taken) keys[i] = 0;
  }
  return taken;
}

// Experts of one group lie apart by a word after every 32, so that lanes that read one group each
// meet different banks.
__device__ int place_of(int expert) {
  return expert + expert / kWarp;
}

// The two largest of what is offered.
struct Two {
  float first = -INFINITY;
  float second = -INFINITY;

  __device__ void offer(float value) {
    second = fmaxf(second, fminf(first, value));
    first = fmaxf(first, value);
  }
};

// The sum of the two best of a group, its one expert where it has no more, by `lanes` neighbours, a
// power of two, which all call it.
__device__ float group_score(const float* choice, int begin, int size, int lanes) {
  Two two;
  for (int e = begin + lane_id() % lanes; e < begin + size; e += lanes) {
    two.offer(choice[place_of(e)]);
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const float first = __shfl_xor_sync(kAllLanes, two.first, offset);
    const float second = __shfl_xor_sync(kAllLanes, two.second, offset);
    two.offer(first);
    two.offer(second);
  }
  return size > 1 ? two.first + two.second : two.first;
}

// Keys of experts outside the best groups become 0. choice: the experts, in shared memory.
template <int kPerLane>
__device__ void keep_best_groups(const Router& router, const float* choice,
                                 uint32_t (&keys)[kPerLane]) {
  const int size = router.num_experts / router.n_group;
  int lanes = 1;  // of a group
  while (lanes * 2 * router.n_group <= kWarp) lanes *= 2;
  const int groups_at_once = kWarp / lanes;
  uint32_t group_keys[kMaxRouterGroups / kWarp];
#pragma unroll
  for (int i = 0; i < kMaxRouterGroups / kWarp; ++i) {
    // All lanes of a group learn its score, the first of them as lane group % 32 of a key.
    const int group = i * kWarp + lane_id() / lanes;
    const int begin = min(group, router.n_group) * size;
    const float score = group_score(choice, begin, group < router.n_group ? size : 0, lanes);
    const float own = __shfl_sync(kAllLanes, score, lane_id() * lanes % kWarp);
    const int own_group = i * kWarp + lane_id();
    group_keys[i] = lane_id() < groups_at_once && own_group < router.n_group ? ordered(own) : 0;
  }
  uint64_t kept = 0;
  for (int i = 0; i < router.topk_group; ++i) kept |= uint64_t{1} << take_largest(group_keys);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * kWarp + lane_id();
    if (expert < router.num_experts && (kept >> (expert / size) & 1) == 0) keys[i] = 0;
  }
}

// What lane k's expert weighs, before normalisation. Logits are read once more, from the cache.
__device__ float weight_of(const Router& router, const float* logits, int expert) {
  const float logit = logits[expert];
  if (router.scoring != RouterScoring::kSoftmax) return portable_sigmoid(logit);
  const float largest = __shfl_sync(kAllLanes, logit, 0);
  float total = 0;
  for (int e = lane_id(); e < router.num_experts; e += kWarp) {
    total += portable_exp(logits[e] - largest);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(kAllLanes, total, offset);
  }
  return portable_exp(logit - largest) / total;
}

template <int kPerLane>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    route_kernel(const __grid_constant__ Router router) {
  __shared__ float choices[kWarpsPerBlock][kPerLane * (kWarp + 1)];
  const bool is_grouped = router.scoring == RouterScoring::kSigmoidGroups;
  // A weight, which need not wait for the kernel before.
  float bias[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * kWarp + lane_id();
    const bool has_bias = expert < router.num_experts && is_grouped && router.bias != nullptr;
    bias[i] = has_bias ? router.bias[expert] : 0;
  }
  follow_previous_kernel();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (token >= router.num_rows) return;
  if (router.num_tokens != nullptr && token >= *router.num_tokens) {
    if (lane_id() < router.top_k) {
      router.ids[token * router.top_k + lane_id()] = -1;
      router.weights[token * router.top_k + lane_id()] = 0;
    }
    return;
  }
  const float* logits = router.logits.at(token, 0);
  // All loads before the first use.
  float choice[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * kWarp + lane_id();
    choice[i] = expert < router.num_experts ? logits[expert] : 0;
  }
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * kWarp + lane_id();
    if (is_grouped) choice[i] = __fadd_rn(portable_sigmoid(choice[i]), bias[i]);
    choices[warp][place_of(expert)] = isnan(choice[i]) ? -INFINITY : choice[i];
    keys[i] = expert < router.num_experts ? ordered(choice[i]) : 0;
  }
  __syncwarp();
  if (is_grouped && router.topk_group < router.n_group) {
    keep_best_groups(router, choices[warp], keys);
  }
  int own = 0;  // the expert of lane k; lanes beyond top_k repeat the best
  for (int k = 0; k < router.top_k; ++k) {
    const int expert = take_largest(keys);
    if (k == 0 || lane_id() == k) own = expert;
  }
  float weight = weight_of(router, logits, own);
  float total = 0;  // in the order of the CPU
  for (int k = 0; k < router.top_k; ++k) total += __shfl_sync(kAllLanes, weight, k);
  weight *= router.normalize ? router.scaling / (total + 1e-20F) : router.scaling;
  if (lane_id() < router.top_k) {
    router.ids[token * router.top_k + lane_id()] = own;
    router.weights[token * router.top_k + lane_id()] = weight;
  }
}

// For up to 32 * kPerLane experts.
template <int kPerLane>
void launch(Stream& stream, const Router& router) {
  if constexpr (kPerLane * kWarp < kMaxRouterExperts) {
    if (router.num_experts > kPerLane * kWarp) return launch<2 * kPerLane>(stream, router);
  }
  const auto blocks =
      static_cast<unsigned>((router.num_rows + kWarpsPerBlock - 1) / kWarpsPerBlock);
  launch_kernel(stream, {blocks, kWarp * kWarpsPerBlock}, route_kernel<kPerLane>, router);
}

}  // namespace

void route(Stream& stream, const RouterParams& params) {
  if (params.logits.rows == 0) return;
  launch<1>(stream, {.logits = rows_of<float>(params.logits),
                     .bias = params.bias,
                     .ids = params.ids,
                     .weights = params.weights,
                     .num_tokens = params.num_tokens,
                     .num_rows = params.logits.rows,
                     .num_experts = static_cast<int>(params.logits.columns),
                     .scoring = params.scoring,
                     .top_k = params.top_k,
                     .n_group = params.n_group,
                     .topk_group = params.topk_group,
                     .normalize = params.normalize,
                     .scaling = params.scaling});
  check_launch(stream, "route");
}

}  // namespace wideep::kernels::cuda
