// Where there is no CUDA there are no tables.
#include "kernels/attention_tables.h"

namespace wideep::kernels {

struct AttentionTables::Memory {};

AttentionTables::~AttentionTables() = default;

Result<std::unique_ptr<AttentionTables>> AttentionTables::create(const AttentionTablesOptions&) {
  return Status::unavailable("attention on a CUDA device: this build has no CUDA");
}

int64_t AttentionTables::device_bytes(const AttentionTablesOptions&) {
  return 0;
}

Status AttentionTables::prepare(Stream&, std::span<const AttentionSequence>, int) {
  return Status::unavailable("attention on a CUDA device: this build has no CUDA");
}

}  // namespace wideep::kernels
