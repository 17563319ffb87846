#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace wideep {
namespace {

Status system_error(const std::string& path, const char* doing) {
  const int error = errno;
  std::string message = fmt::format("{}: {}: {}", path, doing, std::strerror(error));
  return error == ENOENT ? Status::not_found(std::move(message)) : Status::io(std::move(message));
}

// An open file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_;
};

Result<int64_t> regular_file_size(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return system_error(path, "cannot stat");
  if (!S_ISREG(info.st_mode)) {
    return Status::invalid_input(fmt::format("{}: not a regular file", path));
  }
  return static_cast<int64_t>(info.st_size);
}

}  // namespace

Result<std::string> read_file(const std::string& path, int64_t max_bytes) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return system_error(path, "cannot open");
  ASSIGN_OR_RETURN(const int64_t size, regular_file_size(file.get(), path));
  if (size > max_bytes) {
    return Status::invalid_input(
        fmt::format("{}: {} bytes, more than the {} that are read", path, size, max_bytes));
  }
  std::string contents(static_cast<size_t>(size), '\0');
  size_t have = 0;
  while (have < contents.size()) {
    const ssize_t n = ::read(file.get(), contents.data() + have, contents.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(path, "cannot read");
    if (n == 0) return Status::io(fmt::format("{}: became shorter while it was read", path));
    have += static_cast<size_t>(n);
  }
  return contents;
}

FileWriter::FileWriter(int fd, std::string path, std::string temporary)
    : fd_(fd), path_(std::move(path)), temporary_(std::move(temporary)) {}

Result<FileWriter> FileWriter::create(const std::string& path) {
  struct stat info;
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) {
    return Status::invalid_input(fmt::format("{}: is a folder, must be a file", path));
  }
  if (exists && !S_ISREG(info.st_mode)) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return system_error(path, "cannot open");
    return FileWriter(fd, path, "");
  }
  std::error_code error;
  const std::string target = exists ? std::filesystem::canonical(path, error).string() : path;
  if (error) return Status::io(fmt::format("{}: cannot resolve: {}", path, error.message()));
  std::string temporary = target + ".tmp.XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return system_error(path, "cannot create a file beside it");
  return FileWriter(fd, target, std::move(temporary));
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)) {}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status FileWriter::append(std::string_view bytes) {
  CHECK(fd_ >= 0);
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(path_, "cannot write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return Status::ok();
}

Status FileWriter::commit() {
  CHECK(fd_ >= 0);
  if (temporary_.empty()) {
    if (::close(std::exchange(fd_, -1)) != 0) return system_error(path_, "cannot write");
    return Status::ok();
  }
  if (::fsync(fd_) != 0) return system_error(path_, "cannot write");
  if (::fchmod(fd_, 0644) != 0) return system_error(path_, "cannot chmod");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return system_error(path_, "cannot replace");
  }
  ::close(std::exchange(fd_, -1));
  return Status::ok();
}

Status write_file(const std::string& path, std::string_view contents) {
  ASSIGN_OR_RETURN(FileWriter file, FileWriter::create(path));
  RETURN_IF_ERROR(file.append(contents));
  return file.commit();
}

Status make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return Status::io(fmt::format("{}: cannot make folder: {}", path, error.message()));
  return Status::ok();
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return system_error(path, "cannot open folder");
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  ::closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}

bool path_exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

bool is_directory(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::string join_path(std::string_view folder, std::string_view name) {
  if (folder.empty()) return std::string(name);
  return fmt::format("{}{}{}", folder, folder.back() == '/' ? "" : "/", name);
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return system_error(path, "cannot open");
  ASSIGN_OR_RETURN(const int64_t size, regular_file_size(file.get(), path));
  MappedFile mapped;
  if (size == 0) return mapped;
  void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return system_error(path, "cannot map");
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = static_cast<size_t>(size);
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void will_read(std::span<const std::byte> mapped) {
  if (mapped.empty()) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(mapped.data()) + mapped.size();
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);  // NOLINT: page address
}

}  // namespace wideep
