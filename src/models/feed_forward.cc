#include "models/feed_forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/op_context.h"
#include "kernels/side_stream.h"
#include "kernels/transfer.h"
#include "moe/conventional_layer.h"
#include "moe/wide_ep_layer.h"

namespace wideep::models {
namespace {

MatrixRequest rows_of(const std::string& name, const Share& rows, int columns) {
  MatrixRequest request;
  request.name = name;
  request.row_begin = rows.begin;
  request.row_end = rows.end;
  request.column_end = columns;
  return request;
}

MatrixRequest columns_of(const std::string& name, int rows, const Share& columns) {
  MatrixRequest request;
  request.name = name;
  request.row_end = rows;
  request.column_begin = columns.begin;
  request.column_end = columns.end;
  return request;
}

// Columns [columns.begin, columns.end) of a gated MLP: down(silu(gate x) * up x).
class DenseMlp : public FeedForward {
 public:
  // `prefix` of the tensors: "model.layers.0.mlp.".
  DenseMlp(const std::string& prefix, int hidden_size, const Share& columns, DType dtype,
           WeightStore& store)
      : columns_(columns.size()),
        gate_up_(&store.add_linear({rows_of(prefix + "gate_proj.weight", columns, hidden_size),
                                    rows_of(prefix + "up_proj.weight", columns, hidden_size)},
                                   dtype)),
        down_(&store.add_linear({columns_of(prefix + "down_proj.weight", hidden_size, columns)},
                                dtype)) {}

  Status forward(const ForwardPass& pass, ConstMatrixView x, std::span<const int>,
                 MatrixView y) const override {
    const Arena::Scope scope(*pass.arena);
    const MatrixView gate_up = pass.matrix(x.rows, 2 * columns_);
    kernels::linear(*pass.stream, x, *gate_up_, gate_up);
    const MatrixView activated = pass.matrix(x.rows, columns_);
    kernels::silu_mul(*pass.stream, gate_up, activated);
    kernels::linear(*pass.stream, activated, *down_, y);
    return Status::ok();
  }

  int64_t scratch_bytes(int max_rows) const override {
    return Arena::matrix_bytes(max_rows, 2 * columns_) + Arena::matrix_bytes(max_rows, columns_);
  }

 private:
  int64_t columns_;
  const kernels::PackedWeight* gate_up_;
  const kernels::PackedWeight* down_;
};

// With more rows the shared expert keeps a GPU busy on its own.
constexpr int kSideRows = 256;

class MoeBlock : public FeedForward {
 public:
  MoeBlock(const FeedForwardOptions& options, WeightStore& store);

  Status forward(const ForwardPass& pass, ConstMatrixView x, std::span<const int> dp_rows,
                 MatrixView y) const override;
  int64_t scratch_bytes(int max_rows) const override;
  moe::ExpertWeights slot_weights() const override {
    return options_.wide_ep != nullptr ? expert_weights_ : moe::ExpertWeights{};
  }
  const moe::Router* router() const override { return &*router_; }
  moe::MoeLayer* experts() const override { return experts_.get(); }

 private:
  const ModelConfig& config() const { return *options_.model->config; }
  bool is_attention_dp() const { return options_.model->engine->parallel.enable_attention_dp; }
  // ids of a layer's stream where the host reads them; `memory` holds those of a GPU.
  static std::span<const int32_t> on_host(Stream& stream, std::span<const int32_t> ids,
                                          std::vector<int32_t>& memory);
  void observe(RoutingObserver& observer, const ForwardPass& pass,
               std::span<const int32_t> ids) const;
  void plan_router(const std::string& prefix, WeightStore& store);
  void plan_experts(const std::string& prefix, std::span<const int> experts, const Share& columns,
                    WeightStore& store);
  void make_conventional(const std::string& prefix, const moe::MoeShape& shape, WeightStore& store);
  void make_wide_ep(const std::string& prefix, const moe::MoeShape& shape, WeightStore& store);
  void plan_shared(const std::string& prefix, WeightStore& store);
  // Where the shared expert runs beside the others; null: on the pass's stream, before them.
  kernels::SideStream* side_of(const ForwardPass& pass) const;
  Status run_shared(const ForwardPass& pass, kernels::SideStream* side, ConstMatrixView x,
                    MatrixView y) const;

  FeedForwardOptions options_;
  std::optional<moe::Router> router_;
  moe::ExpertWeights expert_weights_;
  std::unique_ptr<moe::MoeLayer> experts_;
  std::unique_ptr<DenseMlp> shared_;
};

MoeBlock::MoeBlock(const FeedForwardOptions& options, WeightStore& store) : options_(options) {
  const bool is_llama = config().family == ModelFamily::kLlama4;
  const std::string prefix = options.prefix + (is_llama ? "feed_forward." : "mlp.");
  plan_router(prefix, store);
  moe::MoeShape shape;
  shape.hidden_size = config().hidden_size;
  shape.intermediate_size = config().moe.intermediate_size;
  shape.top_k = config().moe.top_k;
  shape.weight_scales_input = config().moe.scoring == Scoring::kSigmoidInput;
  options_.wide_ep != nullptr ? make_wide_ep(prefix, shape, store)
                              : make_conventional(prefix, shape, store);
  plan_shared(prefix, store);
}

void MoeBlock::plan_router(const std::string& prefix, WeightStore& store) {
  const MoeModelConfig& moe = config().moe;
  const std::string name =
      prefix + (config().family == ModelFamily::kLlama4 ? "router" : "gate") + ".weight";
  const MatrixRequest rows = rows_of(name, {0, moe.num_experts}, config().hidden_size);
  const bool is_bf16 =
      options_.model->weight_dtype != DType::kF32 && options_.model->source->is_bf16(rows);
  const kernels::PackedWeight& gate =
      store.add_linear({rows}, is_bf16 ? DType::kBF16 : DType::kF32);
  const std::span<const float>* bias = nullptr;
  if (moe.scoring == Scoring::kSigmoid) {
    bias = &store.add_vector({prefix + "gate.e_score_correction_bias", 0, moe.num_experts});
  }
  router_.emplace(moe, gate, bias);
}

void MoeBlock::make_conventional(const std::string& prefix, const moe::MoeShape& shape,
                                 WeightStore& store) {
  const MoeModelConfig& moe = config().moe;
  const Mapping& mapping = *options_.model->mapping;
  const Share share = share_of(moe.num_experts, mapping.moe_ep(), options_.rank.moe_ep_rank);
  std::vector<int> experts(static_cast<size_t>(share.size()));
  std::iota(experts.begin(), experts.end(), share.begin);
  const Share columns =
      share_of(moe.intermediate_size, mapping.moe_tp(), options_.rank.moe_tp_rank);
  plan_experts(prefix, experts, columns, store);
  moe::ConventionalLayer::Options layer;
  layer.shape = shape;
  layer.shape.intermediate_size = columns.size();
  layer.first_expert = share.begin;
  layer.experts = expert_weights_;
  layer.on_gpu = options_.on_gpu;
  layer.gather = is_attention_dp() ? options_.tp : nullptr;
  layer.max_num_tokens =
      options_.model->engine->moe.max_num_tokens.value_or(std::numeric_limits<int>::max());
  experts_ = std::make_unique<moe::ConventionalLayer>(layer);
}

void MoeBlock::make_wide_ep(const std::string& prefix, const moe::MoeShape& shape,
                            WeightStore& store) {
  const moe::WideEpOptions& shared = options_.wide_ep->options();
  const auto layer_index =
      static_cast<int>(std::ranges::find(shared.layers, options_.layer) - shared.layers.begin());
  const int slots_per_rank = shared.shape.slots_per_rank();
  const std::span<const int> own = options_.wide_ep->slots(layer_index)
                                       .subspan(static_cast<size_t>(options_.rank.moe_ep_rank) *
                                                    static_cast<size_t>(slots_per_rank),
                                                static_cast<size_t>(slots_per_rank));
  plan_experts(prefix, own, {0, shape.intermediate_size}, store);
  moe::WideEpLayer::Options layer;
  layer.shape = shape;
  layer.wide_ep = options_.wide_ep;
  layer.layer_index = layer_index;
  layer.slots = expert_weights_;
  layer.on_slots = [this](Stream& stream, std::span<const int32_t> slots) {
    if (RoutingObserver* observer = *options_.observer; observer != nullptr) {
      std::vector<int32_t> memory;
      observer->on_slots(options_.layer, on_host(stream, slots, memory));
    }
  };
  experts_ = std::make_unique<moe::WideEpLayer>(std::move(layer));
}

void MoeBlock::plan_experts(const std::string& prefix, std::span<const int> experts,
                            const Share& columns, WeightStore& store) {
  const MoeModelConfig& moe = config().moe;
  const int hidden = config().hidden_size;
  std::vector<std::vector<MatrixRequest>> gate_ups;
  std::vector<std::vector<MatrixRequest>> downs;
  for (const int expert : experts) {
    if (config().family == ModelFamily::kLlama4) {
      // Gate and up are the two halves of one tensor's columns, stored [experts, in, out].
      const std::string gate_up = prefix + "experts.gate_up_proj";
      const Share up = {moe.intermediate_size + columns.begin, moe.intermediate_size + columns.end};
      gate_ups.push_back({rows_of(gate_up, columns, hidden), rows_of(gate_up, up, hidden)});
      downs.push_back({columns_of(prefix + "experts.down_proj", hidden, columns)});
      for (MatrixRequest* request : {&gate_ups.back()[0], &gate_ups.back()[1], &downs.back()[0]}) {
        request->expert = expert;
        request->transposed = true;
      }
    } else {
      const std::string name = fmt::format("{}experts.{}.", prefix, expert);
      gate_ups.push_back({rows_of(name + "gate_proj.weight", columns, hidden),
                          rows_of(name + "up_proj.weight", columns, hidden)});
      downs.push_back({columns_of(name + "down_proj.weight", hidden, columns)});
    }
  }
  expert_weights_.gate_up =
      store.add_linear_group(std::move(gate_ups), options_.model->weight_dtype);
  expert_weights_.down = store.add_linear_group(std::move(downs), options_.model->weight_dtype);
}

void MoeBlock::plan_shared(const std::string& prefix, WeightStore& store) {
  const int width = config().moe.shared_intermediate_size;
  if (width == 0) return;
  const bool is_llama = config().family == ModelFamily::kLlama4;
  const Share columns = is_attention_dp()
                            ? Share{0, width}
                            : share_of(width, options_.model->mapping->tp(), options_.rank.tp_rank);
  shared_ = std::make_unique<DenseMlp>(prefix + (is_llama ? "shared_expert." : "shared_experts."),
                                       config().hidden_size, columns, options_.model->weight_dtype,
                                       store);
}

std::span<const int32_t> MoeBlock::on_host(Stream& stream, std::span<const int32_t> ids,
                                           std::vector<int32_t>& memory) {
  if (!stream.is_cuda()) return ids;
  memory.resize(ids.size());
  kernels::fetch_bytes(stream, std::as_bytes(ids), reinterpret_cast<std::byte*>(memory.data()));
  return memory;
}

void MoeBlock::observe(RoutingObserver& observer, const ForwardPass& pass,
                       std::span<const int32_t> ids) const {
  std::vector<int32_t> memory;
  observer.on_routing(options_.layer, pass.own_begin, on_host(*pass.stream, ids, memory),
                      config().moe.top_k);
}

Status MoeBlock::forward(const ForwardPass& pass, ConstMatrixView x, std::span<const int> dp_rows,
                         MatrixView y) const {
  const Arena::Scope scope(*pass.arena);
  const MoeModelConfig& moe = config().moe;
  const std::span<int32_t> ids = pass.arena->take<int32_t>(x.rows * moe.top_k);
  const std::span<float> weights = pass.arena->take<float>(x.rows * moe.top_k);
  kernels::SideStream* side = side_of(pass);
  MatrixView shared;
  if (shared_ != nullptr) {
    shared = pass.matrix(x.rows, config().hidden_size);
    RETURN_IF_ERROR(run_shared(pass, side, x, shared));
  }
  router_->forward(
      *pass.stream, x,
      {pass.arena->matrix(x.rows, moe.num_experts), ids.data(), weights.data(), pass.num_tokens});
  if (RoutingObserver* observer = *options_.observer; observer != nullptr) {
    observe(*observer, pass, ids);
  }
  // One rank alone has no need of attention DP to spread experts.
  const std::array<int, 1> own_rows = {static_cast<int>(x.rows)};
  if (options_.wide_ep != nullptr && dp_rows.empty()) dp_rows = own_rows;
  moe::MoeInput input = {x, ids.data(), weights.data()};
  input.side = side;
  if (experts_->adds_residual()) input.residual = shared;
  RETURN_IF_ERROR(experts_->forward(*pass.stream, *pass.arena, input, dp_rows, y));
  if (side != nullptr) side->join(*pass.stream);
  if (shared_ != nullptr && !experts_->adds_residual()) kernels::add(*pass.stream, shared, y);
  return Status::ok();
}

kernels::SideStream* MoeBlock::side_of(const ForwardPass& pass) const {
  if (shared_ == nullptr || !pass.stream->is_cuda()) return nullptr;
  const OpContext& context = pass.stream->context();
  return pass.own_rows() <= kSideRows && !context.is_profiled() ? context.side() : nullptr;
}

Status MoeBlock::run_shared(const ForwardPass& pass, kernels::SideStream* side, ConstMatrixView x,
                            MatrixView y) const {
  if (side == nullptr) return shared_->forward(pass, x, {}, y);
  Arena arena(pass.arena->take<std::byte>(shared_->scratch_bytes(static_cast<int>(x.rows))));
  ForwardPass beside = pass;
  beside.stream = &side->stream();
  beside.arena = &arena;
  side->fork(*pass.stream);
  return shared_->forward(beside, x, {}, y);
}

int64_t MoeBlock::scratch_bytes(int max_rows) const {
  const MoeModelConfig& moe = config().moe;
  int64_t routed = experts_->scratch_bytes(max_rows);
  int64_t shared = 0;
  if (shared_ != nullptr) {
    shared = Arena::matrix_bytes(max_rows, config().hidden_size);
    if (options_.on_gpu) routed += shared_->scratch_bytes(std::min(max_rows, kSideRows));
    routed = std::max(routed, shared_->scratch_bytes(max_rows));
  }
  return 2 * Arena::matrix_bytes(max_rows, moe.top_k) +
         Arena::matrix_bytes(max_rows, moe.num_experts) + shared + routed;
}

}  // namespace

std::vector<moe::SlotBytes> slot_bytes(const WeightStore& store, const FeedForward& layer) {
  const moe::ExpertWeights weights = layer.slot_weights();
  std::vector<moe::SlotBytes> slots;
  for (size_t s = 0; s < weights.down.size(); ++s) {
    slots.push_back({store.memory_of(weights.gate_up[s]), store.memory_of(weights.down[s])});
  }
  return slots;
}

std::unique_ptr<FeedForward> make_feed_forward(const FeedForwardOptions& options,
                                               WeightStore& store) {
  const ModelOptions& model = *options.model;
  const ModelConfig& config = *model.config;
  if (std::binary_search(config.moe_layers.begin(), config.moe_layers.end(), options.layer)) {
    return std::make_unique<MoeBlock>(options, store);
  }
  const bool is_llama = config.family == ModelFamily::kLlama4;
  const Share columns =
      model.engine->parallel.enable_attention_dp
          ? Share{0, config.intermediate_size}
          : share_of(config.intermediate_size, model.mapping->tp(), options.rank.tp_rank);
  return std::make_unique<DenseMlp>(options.prefix + (is_llama ? "feed_forward." : "mlp."),
                                    config.hidden_size, columns, model.weight_dtype, store);
}

}  // namespace wideep::models
