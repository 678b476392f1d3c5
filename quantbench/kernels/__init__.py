"""Operations that have a Triton kernel beside their torch reference; importable without Triton."""
