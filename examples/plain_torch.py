"""No Lightning: an orthonormal encoder, a loss of your own, the effective rank, and the exact flow beside it.

python examples/plain_torch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from sslmanifold import constrain
from sslmanifold.geometry import RiemannianSGD
from sslmanifold.metrics import effective_rank
from sslmanifold.theory import cross_moment, solve


def main(steps=300, lr=0.02):
    torch.manual_seed(0)
    x = torch.tensor(load_digits().data) / 16  # float64, as the theory is
    x = x - x.mean(0)
    positive, negative = x + 0.1 * torch.randn_like(x), x[torch.randperm(len(x))]

    # u(x) = W2ᵀ W1 x, both with orthonormal columns: in torch's layout (out, in) the second is W2ᵀ
    model = nn.Sequential(nn.Linear(64, 80, bias=False), nn.Linear(80, 4, bias=False)).double()
    constrain(model, "orthogonal", metric="grassmann", init="haar")
    optimizer = RiemannianSGD(model.parameters(), lr=lr)

    # Theorem 2: in the eigenbasis of C the map q follows an equation of its own
    C = cross_moment(x, positive, negative, reduction="mean")
    eigvals, eigvecs = torch.linalg.eigh(C)
    q0 = eigvecs.T @ (model[1].weight @ model[0].weight).detach().T
    exact = solve(q0, eigvals, times=torch.arange(0, steps + 1, 50) * lr, hidden=80)

    for step in range(steps + 1):
        u, u_pos, u_neg = model(x), model(positive), model(negative)
        loss = (u * (u_neg - u_pos)).sum(-1).mean()
        if step % 50 == 0:
            ode = x @ eigvecs @ exact.q[step // 50]
            gap = (torch.linalg.norm(u - ode) / torch.linalg.norm(ode)).item()
            print(
                f"step {step:4}  loss {loss:8.4f}  effective rank {effective_rank(u):.3f} of 4  from the ODE {gap:.1e}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gap


if __name__ == "__main__":
    main()
