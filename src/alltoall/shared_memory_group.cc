// Ranks that are threads of one process pull: a receiver copies rows from where the sender has
// them to their final place, a sender sums rows from where the receiver computed them. Two waits a
// round trip beside plan()'s: x is ready, the outputs are ready. No third: outputs are written
// next after the following dispatch's wait, and who comes to that has finished this combine.
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "alltoall/host_group.h"
#include "alltoall/row_sums.h"
#include "kernels/parallel.h"

namespace wideep::alltoall {
namespace {

// What a rank lets the others read.
struct Window {
  const BatchLayout* layout = nullptr;
  const Routing* routing = nullptr;
  ConstMatrixView x;
  const float* outputs = nullptr;
};

// How far each rank is with reading what the others have, so that a rank that ends (done, or with
// an error) does not take its memory away from under a reader. After a wait that all ranks have
// passed, every rank reads without waiting for anybody; so who ends only waits for those who may
// have passed the last wait that it came to itself, and have not ended either.
class Readers {
 public:
  explicit Readers(int size) : ranks_(static_cast<size_t>(size)) {}

  void finish(int rank, int64_t wait) { ranks_[rank].finished.store(wait); }
  void leave(int rank, int64_t last_wait) {
    ranks_[rank].has_left.store(true);
    for (const Rank& other : ranks_) {
      while (!other.has_left.load() && other.finished.load() < last_wait) std::this_thread::yield();
    }
  }

 private:
  struct Rank {
    std::atomic<int64_t> finished{0};  // the last wait after which it has read all it will
    std::atomic<bool> has_left{false};
  };
  std::vector<Rank> ranks_;
};

class SharedMemoryGroup : public HostGroup {
 public:
  SharedMemoryGroup(dist::Communicator& group, const GroupShape& shape)
      : HostGroup(group, shape), windows_(static_cast<size_t>(group.size())) {}
  ~SharedMemoryGroup() override {
    if (readers_ != nullptr) readers_->leave(rank(), wait_);
  }

  // Collective: all ranks get the readers of rank 0.
  Status share() {
    RETURN_IF_ERROR(allocate());
    auto own = std::make_shared<Readers>(size());
    const std::shared_ptr<Readers>* shared = &own;
    RETURN_IF_ERROR(group_.broadcast(std::as_writable_bytes(std::span(&shared, 1)), 0));
    readers_ = *shared;
    return group_.barrier();
  }

  Result<Received> dispatch(Stream& stream, ConstMatrixView x) override;
  Status combine(Stream& stream, MatrixView y) override;

 private:
  void pull(Stream& stream);

  std::shared_ptr<Readers> readers_;
  int64_t wait_ = 0;             // waits that this rank has come to
  std::vector<Window> windows_;  // [size], valid from dispatch() to combine()
};

Result<Received> SharedMemoryGroup::dispatch(Stream& stream, ConstMatrixView x) {
  CHECK(x.dtype == DType::kF32 && x.rows == routing().num_tokens);
  CHECK_EQ(x.columns, shape_.hidden_size);
  const Window own = {&layout_, &routing(), x, outputs().row<float>(0)};
  ++wait_;
  RETURN_IF_ERROR(group_.all_gather(std::as_bytes(std::span(&own, 1)),
                                    std::as_writable_bytes(std::span(windows_))));
  pull(stream);
  readers_->finish(rank(), wait_);
  return received();
}

void SharedMemoryGroup::pull(Stream& stream) {
  const int slots = layout_.slots_per_rank();
  const int64_t pieces = int64_t{size()} * slots;
  const double rows_of_piece =
      static_cast<double>(layout_.num_rows()) / static_cast<double>(pieces);
  const MatrixView to = rows();
  kernels::parallel_ranges(stream, pieces, 0.4 * rows_of_piece * shape_.hidden_size,
                           [&](int64_t begin, int64_t end) {
                             for (int64_t piece = begin; piece < end; ++piece) {
                               const auto source = static_cast<int>(piece / slots);
                               const auto local_slot = static_cast<int>(piece % slots);
                               const Window& window = windows_[source];
                               const int slot = rank() * slots + local_slot;
                               int64_t row = layout_.first_row(source, local_slot);
                               for (int i = window.layout->pair_begin()[slot];
                                    i < window.layout->pair_begin()[slot + 1]; ++i, ++row) {
                                 const int pair = window.layout->pairs()[i];
                                 deliver_row(shape_, window.x.row<float>(pair / shape_.top_k),
                                             window.routing->weights[pair], to.row<float>(row));
                               }
                             }
                           });
}

Status SharedMemoryGroup::combine(Stream& stream, MatrixView y) {
  CHECK(y.dtype == DType::kF32 && y.rows == routing().num_tokens);
  CHECK_EQ(y.columns, shape_.hidden_size);
  ++wait_;
  RETURN_IF_ERROR(group_.barrier());
  const double nanoseconds = 0.3 * shape_.hidden_size * shape_.top_k;
  kernels::parallel_ranges(stream, y.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    std::vector<WeightedRow> token;
    for (int64_t t = begin; t < end; ++t) {
      token.clear();
      for (int64_t pair = t * shape_.top_k; pair < (t + 1) * shape_.top_k; ++pair) {
        const int slot = routing().slots[pair];
        if (slot < 0) continue;
        const int rank = layout_.rank_of(slot);
        const int64_t row = layout_.row_of_pair(static_cast<int>(pair));
        token.push_back(
            {windows_[rank].outputs + row * shape_.hidden_size, output_weight(pair), rank});
      }
      const std::span<float> to(y.row<float>(t), static_cast<size_t>(y.columns));
      shape_.combine == CombineMode::kExact ? sum_rows(token, to) : sum_rows_by_rank(token, to);
    }
  });
  readers_->finish(rank(), wait_);
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<AllToAll>> make_shared_memory_group(dist::Communicator& group,
                                                           const GroupShape& shape) {
  auto made = std::make_unique<SharedMemoryGroup>(group, shape);
  RETURN_IF_ERROR(made->share());
  return Result<std::unique_ptr<AllToAll>>(std::move(made));
}

}  // namespace wideep::alltoall
